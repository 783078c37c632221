"""Wordings: what a JSON file may say, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import PromptError
from napari_biomedparse.training.wordings import (
    ANY,
    Wordings,
    read_wordings,
    wordings_for,
)


def read(folder: Path, content: object) -> dict[str, Wordings]:
    path = folder / "prompts.json"
    path.write_text(json.dumps(content))
    return read_wordings(path)


def test_data_sets_are_found_by_how_names_begin(tmp_path: Path) -> None:
    known = read(
        tmp_path,
        {
            "CT": {"1": ["liver", "the liver"], "3": []},
            "CT_AMOS": {"2": "spleen", "instance_label": 0},
            "EM": {"1": ["cells"], "instance_label": 1, "absent": ["liver"]},
        },
    )
    assert wordings_for("CT_AMOS_18", known)[0] == "CT_AMOS"
    assert wordings_for("CT_1", known) == (
        "CT",
        Wordings({1: ("liver", "the liver"), 3: ()}),
    )
    assert known["CT"].classes == (1,)
    assert known["EM"] == Wordings({1: ("cells",)}, True, ("liver",))
    with pytest.raises(PromptError, match="no data set is a prefix of the name MR_1"):
        wordings_for("MR_1", known)


def test_without_data_sets_it_is_for_all_files(tmp_path: Path) -> None:
    known = read(tmp_path, {"1": "nuclei", "instance_label": 1})
    assert wordings_for("anything", known) == (ANY, Wordings({1: ("nuclei",)}, True))


def test_prompts_of_a_file_are_wordings() -> None:
    wordings = Wordings.of(parse_prompts({2: "liver", 5: "spleen"}))
    assert wordings == Wordings({2: ("liver",), 5: ("spleen",)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "maps data set to class"),
        ({"CT": {"liver": ["x"]}}, "one is 'liver'"),
        ({"CT": {"1": [3]}}, "wordings of 1 must be a text"),
        ({"CT": {"1": ["a [SEP] b"]}}, "SEP"),
        ({"CT": {"1": [" "]}}, "is empty"),
        ({"CT": {"1": ["x"], "instance_label": 2}}, "must be 0 or 1"),
        (
            {"CT": {"1": ["x"], "2": ["y"], "instance_label": 1}},
            "instances of one class",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(
    tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        read(tmp_path, content)
    assert "prompts.json" in str(caught.value)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(PromptError, match=r"x\.json cannot be read as JSON"):
        read_wordings(tmp_path / "x.json")
