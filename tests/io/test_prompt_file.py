"""Prompts in JSON files."""

from __future__ import annotations

import json

import pytest

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import FormatError, OutputError, PromptError
from napari_biomedparse.io.contents import read_prompts, save_prompts


@pytest.mark.parametrize("instance", [False, True])
def test_saved_sets_are_what_parse_prompts_takes(tmp_path, instance):
    path = tmp_path / "set.json"
    save_prompts(path, {3: "soma", 1: "Zellkern µ"}, instance=instance)
    parsed = parse_prompts(json.loads(path.read_text("utf-8")))
    assert (parsed.ids, parsed.instance) == ((1, 3), instance)
    assert parsed.texts == ("Zellkern µ", "soma")
    assert parsed.ranked == (3, 1)
    assert read_prompts(path) == parsed


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("not json", FormatError),
        ("[1]", FormatError),
        ('{"x": "liver"}', PromptError),
        ('{"1": 5}', PromptError),
        ("{}", PromptError),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, error):
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(error):
        read_prompts(path)


def test_unwritable_place_is_told(tmp_path):
    with pytest.raises(OutputError, match="does not exist; create it first"):
        save_prompts(tmp_path / "none" / "set.json", {}, instance=False)
