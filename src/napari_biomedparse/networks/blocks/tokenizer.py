"""CLIP byte-pair encoding: the text of a prompt to token ids.

Equal to the slow Hugging Face ``CLIPTokenizer`` with ftfy installed, with which the
published weights were trained and used. Needs neither torch nor a network.
"""

from __future__ import annotations

import functools
import gzip
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Regex
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from napari_biomedparse.errors import PromptError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

CONTEXT_LENGTH = 77
"""Number of ids the text encoder reads, including the start and end tokens."""
START_ID = 49406
END_ID = 49407

_SPECIAL_IDS = {"<|startoftext|>": START_ID, "<|endoftext|>": END_ID}
_SPECIAL = re.compile("(" + "|".join(map(re.escape, _SPECIAL_IDS)) + ")")
_WORD = (
    r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
_WORD_END = "</w>"


@dataclass(frozen=True)
class Tokens:
    """One prompt as the text encoder reads it."""

    ids: NDArray[np.int64]  # [77]: start token, text, end token, padded with end tokens
    length: int  # number of ids before the padding
    truncated: bool  # whether the end of the text was cut off


def tokenize(text: str) -> Tokens:
    """Encode one prompt; a text of more than 75 tokens is truncated."""
    body = _body(text)
    kept = body[: CONTEXT_LENGTH - 2]
    ids = np.full(CONTEXT_LENGTH, END_ID, dtype=np.int64)
    ids[0] = START_ID
    ids[1 : len(kept) + 1] = kept
    return Tokens(ids, len(kept) + 2, len(body) > len(kept))


def refuse_equal(texts: Iterable[str]) -> None:
    """Raise a `PromptError` if the network reads two prompts as the same."""
    seen: dict[bytes, str] = {}
    for text in texts:
        ids = tokenize(text).ids.tobytes()
        if (first := seen.get(ids)) is not None:
            raise PromptError(
                f"The prompts {first!r} and {text!r} are the same for the network; "
                "keep one of them."
            )
        seen[ids] = text


def token_count(text: str) -> int:
    """Count the tokens of a prompt, including the start and end tokens.

    If there are more than `CONTEXT_LENGTH`, the prompt will be truncated.
    """
    return len(_body(text)) + 2


def _body(text: str) -> list[int]:
    """Encode a text of any length, without the start and end tokens."""
    ids: list[int] = []
    for part in filter(None, _SPECIAL.split(text)):
        ids += [_SPECIAL_IDS[part]] if part in _SPECIAL_IDS else _encode(_clean(part))
    return ids


def _clean(text: str) -> str:
    """Repair broken Unicode, collapse white space and lower the case."""
    import ftfy  # slow to import

    return re.sub(r"\s+", " ", ftfy.fix_text(text)).strip().lower()


def _encode(text: str) -> list[int]:
    """Encode cleaned text; a special token counts where a word could begin."""
    ids: list[int] = []
    for word, _ in _word_splitter().pre_tokenize_str(text):
        if word in _SPECIAL_IDS:
            ids.append(_SPECIAL_IDS[word])
        else:
            ids.extend(token.id for token in _model().tokenize(word))
    return ids


@functools.cache
def _word_splitter() -> PreTokenizer:
    """Build the splitter into words, digits and runs of symbols, as byte characters."""
    return Sequence(
        [
            Split(Regex(_WORD), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@functools.cache
def _model() -> BPE:
    """Load the byte-pair model from the merges table that ships with the package."""
    table = files("napari_biomedparse") / "_data" / "clip_merges.txt.gz"
    lines = gzip.decompress(table.read_bytes()).decode("utf-8").split("\n")[:-1]
    merges = [(left, right) for left, right in map(str.split, lines)]
    symbols = sorted(ByteLevel.alphabet())  # stand for bytes, as in the vocabulary
    tokens = [*symbols, *(symbol + _WORD_END for symbol in symbols)]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    return BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=_WORD_END)
