"""The rows of the prompt table, without a window."""

from __future__ import annotations

import pytest

from napari_biomedparse.data.prompts import Prompt
from napari_biomedparse.errors import PromptError
from napari_biomedparse.report.findings import Finding
from napari_biomedparse.widgets.prompts.model import PromptModel
from napari_biomedparse.widgets.prompts.rows import Result, short_count, split_list

pytestmark = pytest.mark.usefixtures("qapp")


def rows(*texts):
    made = PromptModel()
    made.add(texts or ("liver", "spleen", "kidney"))
    return made


def shown(made):
    return [(row.id, row.text) for row in made.rows]


def found(number, text, best=0.9, best_slice=4, voxels=7):
    return Finding(Prompt(number, text), 1, 4, 4, best, best_slice, voxels)


def test_ids_stay_with_their_texts():
    made = rows()
    made.move(2, 0)
    made.switch(1, False)
    assert shown(made) == [(3, "kidney"), (1, "liver"), (2, "spleen")]
    assert made.prompt_set().prompts == (Prompt(2, "spleen"), Prompt(3, "kidney"))
    assert made.prompt_set().ranked == (3, 2)
    assert made.texts == ("kidney", "spleen")
    made.delete([0])
    made.add(["bone"])
    assert shown(made) == [(1, "liver"), (2, "spleen"), (3, "bone")]
    made.delete([1])
    made.add(["lung"])
    assert shown(made) == [(1, "liver"), (3, "bone"), (4, "lung")]


def test_none_on_is_told_apart_from_no_row():
    made = rows("liver")
    made.switch(0, False)
    with pytest.raises(PromptError, match="turned off"):
        made.prompt_set()
    made.delete([0])
    with pytest.raises(PromptError, match="There is no prompt"):
        made.prompt_set()


def test_duplicate_has_an_id_of_its_own():
    made = rows()
    assert made.duplicate(0) == 1
    assert shown(made) == [(1, "liver"), (4, "liver"), (2, "spleen"), (3, "kidney")]


def test_bad_text_changes_nothing():
    made = rows("liver")
    for change in (
        lambda: made.set_text(0, "a [SEP] b"),
        lambda: made.add(["bone", " "]),
        lambda: made.restore(((1, "a", True), (1, "b", True))),
        lambda: made.restore(((0, "a", True),)),
    ):
        with pytest.raises(PromptError):
            change()
        assert shown(made) == [(1, "liver")]


def test_results_go_to_what_was_looked_for():
    made = rows()
    made.move(0, 2)
    made.show_results([found(1, "liver"), found(3, "something else")], {1: 5})
    assert [row.result for row in made.rows] == [None, None, Result(0.9, 4, 7, 5)]
    made.set_text(2, " liver ")
    assert made.rows[2].result is not None
    made.set_text(2, "liver lobe")
    assert made.rows[2].result is None
    made.show_results([found(2, "spleen")])
    assert made.rows[0].result == Result(0.9, 4, 7, None)
    made.clear_results()
    assert all(row.result is None for row in made.rows)


def test_snapshot_restores_all_but_results():
    made = rows()
    made.switch(1, False)
    made.move(0, 1)
    before = made.snapshot()
    made.show_results([found(1, "liver")])
    assert made.snapshot() == before
    other = PromptModel()
    other.restore(before)
    assert other.snapshot() == before


def test_split_list():
    text = "- liver\n\n  2. spleen \n* 3D mesh\r\n3-phase CT of kidney\n"
    assert split_list(text) == ["liver", "spleen", "3D mesh", "3-phase CT of kidney"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (100_000, "100 k"),
        (1_250_000, "1.2 M"),
        (34_567_890, "35 M"),
        (2_500_000_000, "2.5 G"),
    ],
)
def test_short_count(number, text):
    assert short_count(number) == text
