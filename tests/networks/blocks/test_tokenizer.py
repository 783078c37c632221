"""Expected ids come from the slow Hugging Face ``CLIPTokenizer`` with ftfy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from napari_biomedparse.errors import PromptError
from napari_biomedparse.networks.blocks.tokenizer import (
    CONTEXT_LENGTH,
    END_ID,
    START_ID,
    refuse_equal,
    token_count,
    tokenize,
)

LIVER = 12639

CASES = [
    ("", []),
    (" \t\n", []),
    (
        "CT imaging of the spleen within the abdomen",
        [1122, 14231, 539, 518, 588, 15940, 4154, 518, 596, 2164, 576],
    ),
    ("LIVER  \t\nTumour", [12639, 45129]),
    ("Crohn\u2019s disease", [1192, 7478, 568, 5336]),
    ("it's they'll IT'S", [585, 568, 889, 1342, 585, 568]),
    ("0123 3.14", [271, 272, 273, 274, 274, 269, 272, 275]),
    ("na\xefve M\xe9ni\xe8re", [1097, 35689, 563, 21890, 697, 30272]),
    ("cafe\u0301", [15304]),
    ("5 \xb5m \xd7 5 \xb5m", [276, 126, 113, 332, 16165, 276, 126, 113, 332]),
    ("\u809d\u81d3", [164, 224, 251, 164, 229, 497]),
    (
        "\u043e\u043f\u0443\u0445\u043e\u043b\u044c",
        [20978, 123, 39729, 141, 227, 20978, 119, 141, 490],
    ),
    ("\U0001f9e0 tumor \U0001fac0", [8792, 510, 22616, 558, 104, 478]),
    ("H&E &amp; PAS", [327, 261, 324, 261, 9525]),
    ("<b> &amp;", [283, 321, 285, 261, 6259, 282]),
    ("\ufb01brosis", [36307]),
    ("nucleus\u200b in\xa0brain", [25693, 718, 9844, 530, 4812]),
    ("left\x00 lung\x1b[31m", [1823, 16271]),
    ("tumor\ud800", [22616, 39802]),
    ("M\xc3\xa9ni\xc3\xa8re \xe2\u20ac\u0153", [21890, 697, 30272, 257]),
    ("\uff26\uff35\uff2c\uff2c", [1476]),
    ("<|endoftext|>", [END_ID]),
    ("<|startoftext|> liver", [START_ID, LIVER]),
    ("liver <|endoftext|> tumor", [LIVER, END_ID, 22616]),
    ("x<|ENDOFTEXT|>", [343, END_ID]),
    ("<|EndOfText|> a", [END_ID, 320]),
    (".<|ENDOFTEXT|>.", [13, 27, 347, 40786, 4160, 91, 29, 269]),
    ("###--__==", [2, 2, 2, 2154, 2355, 28, 284]),
    (
        "\u0130stanbul Stra\xdfe",
        [328, 16384, 11231, 1894, 127, 253, 324],
    ),
    ("T2*-weighted / FLAIR", [339, 273, 9, 268, 43179, 270, 24938]),
    ("\xbd \xb2 \u2167", [33613, 41175, 158, 227, 371]),
]


@pytest.mark.parametrize(("text", "body"), CASES, ids=[ascii(t) for t, _ in CASES])
def test_ids_equal_the_slow_tokenizer(text: str, body: list[int]) -> None:
    tokens = tokenize(text)

    kept = [START_ID, *body, END_ID]
    assert tokens.length == len(kept)
    assert not tokens.truncated
    assert tokens.ids.dtype == np.int64
    assert tokens.ids.tolist() == kept + [END_ID] * (CONTEXT_LENGTH - len(kept))


def test_text_that_just_fits_is_not_truncated() -> None:
    tokens = tokenize("liver " * 75)

    assert (tokens.length, tokens.truncated) == (CONTEXT_LENGTH, False)
    assert tokens.ids[1:-1].tolist() == [LIVER] * 75


def test_longer_text_is_cut_and_says_so() -> None:
    tokens = tokenize("liver " * 76)

    assert (tokens.length, tokens.truncated) == (CONTEXT_LENGTH, True)
    assert tokens.ids.tolist() == [START_ID, *[LIVER] * 75, END_ID]


def test_one_endless_word_is_cut() -> None:
    tokens = tokenize("x" * 5000)

    assert (tokens.length, tokens.truncated) == (CONTEXT_LENGTH, True)
    assert tokens.ids[-1] == END_ID


def test_needs_no_torch() -> None:
    code = (
        "import sys; "
        "from napari_biomedparse.networks.blocks.tokenizer import tokenize; "
        "tokenize('liver'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("words", [0, 1, 75, 76, 200])
def test_tokens_are_counted_beyond_what_is_read(words: int) -> None:
    text = "cell " * words
    assert token_count(text) == words + 2
    assert tokenize(text).truncated == (token_count(text) > CONTEXT_LENGTH)


@pytest.mark.parametrize(
    "texts",
    [
        ["liver", "liver"],
        ["liver", "kidney", "Liver"],
        ["liver", " LIVER  "],
        ["cell nucleus", "cell\n nucleus"],
        ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"],
        ["cell " * 80, "cell " * 90],  # which differ beyond the last token read
    ],
)
def test_prompts_that_are_read_as_the_same_are_refused(texts: list[str]) -> None:
    with pytest.raises(PromptError, match="are the same for the network; keep one"):
        refuse_equal(texts)


def test_prompts_that_differ_are_not_refused() -> None:
    refuse_equal(["liver", "livers", "the liver", "left liver"])
