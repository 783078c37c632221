from __future__ import annotations

from typing import Any

import pytest

from napari_biomedparse.data.prompts import (
    Prompt,
    PromptSet,
    label_colour,
    parse_prompts,
)
from napari_biomedparse.errors import PromptError


def test_text_with_one_prompt_a_line() -> None:
    prompts = parse_prompts("  liver in CT\n\n\nspleen in CT \r\n")
    assert prompts.texts == ("liver in CT", "spleen in CT")
    assert prompts.ids == (1, 2)
    assert not prompts.instance
    assert len(prompts) == 2


def test_texts_in_order_and_sets_as_they_are() -> None:
    prompts = parse_prompts(["b", "a"])
    assert prompts == PromptSet((Prompt(1, "b"), Prompt(2, "a")))
    assert parse_prompts(prompts) is prompts


@pytest.mark.parametrize("flag", [0, 1, True, False])
def test_a_challenge_mapping(flag: int) -> None:
    prompts = parse_prompts({"10": "b", 2: "a", "instance_label": flag})
    assert (prompts.ids, prompts.texts) == ((2, 10), ("a", "b"))
    assert prompts.instance is bool(flag)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no prompt"),
        (" \n ", "no prompt"),
        ([], "no prompt"),
        ({}, "no prompt"),
        ({"instance_label": 1}, "no prompt"),
        (["a", " "], "id 2 is empty"),
        (["a [SEP] b"], r"contains \[SEP\]"),
        ([1], "must be text, not 1"),
        ({"liver": "a"}, "'liver' is not a number"),
        ({"1": 7}, "not text: 7"),
        ({"1": "a", 1: "b"}, "two prompts"),
        ({0: "a"}, "0 is background"),
        ({-1: "a"}, "ids run from 1"),
        ({65536: "a"}, "ids run from 1 to 65535"),
        ({1: "a", "instance_label": 2}, "0 or 1, not 2"),
    ],
)
def test_what_is_refused(source: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        parse_prompts(source)


@pytest.mark.parametrize("ids", [(2, 1), (1, 1)])
def test_ids_ascend(ids: tuple[int, int]) -> None:
    with pytest.raises(PromptError, match="ascending"):
        PromptSet(tuple(Prompt(i, "a") for i in ids))


def test_the_largest_id() -> None:
    assert parse_prompts({65535: "a"}).ids == (65535,)


def test_the_order_of_a_mapping_is_kept_beside_the_ids() -> None:
    prompts = parse_prompts({"10": "b", 2: "a", 7: "c"})
    assert prompts.order == prompts.ranked == (10, 2, 7)
    ascending = parse_prompts({2: "a", 7: "c"})
    assert (ascending.order, ascending.ranked) == ((), (2, 7))
    given = tuple(Prompt(i, text) for i, text in ((2, "a"), (7, "c")))
    assert PromptSet(given, order=(2, 7)) == ascending != PromptSet(given, order=(7, 2))


@pytest.mark.parametrize("order", [(1,), (1, 1), (1, 2, 3)])
def test_an_order_names_each_prompt_once(order: tuple[int, ...]) -> None:
    with pytest.raises(PromptError, match=r"each of the label ids \[1, 2\] once"):
        PromptSet((Prompt(1, "a"), Prompt(2, "b")), order=order)


def test_colours_differ_and_are_stable() -> None:
    colours = [label_colour(i) for i in range(1, 65)]
    assert len(set(colours)) == 64
    assert all(len(c) == 4 and c[3] == 255 for c in colours)
    assert label_colour(1) == colours[0]
