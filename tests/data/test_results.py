"""Which prompt each object belongs to, in memory and as plain values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from napari_biomedparse.data.results import Owners

TEXTS = {3: "nuclei", 7: "vessels"}


def owners(*labels: int, scores: Any = 0.5) -> Owners:
    size = len(labels) + 1
    found = np.full(size, scores, np.float32)
    found[0] = np.nan
    return Owners(np.array([0, *labels], np.uint16), found)


def test_names_are_those_of_known_owners() -> None:
    assert owners(7, 3, 0, 9, 7).names(TEXTS) == {
        1: "vessels",
        2: "nuclei",
        5: "vessels",
    }


def test_plain_values_are_read_back() -> None:
    some = owners(7, 3, scores=0.12345)
    some.scores[2] = np.nan
    described = json.loads(json.dumps(some.describe(), allow_nan=False))
    assert described == {"labels": [7, 3], "scores": [0.1235, None]}
    found = Owners.parse(described)
    assert found is not None
    assert found.labels.tolist() == [0, 7, 3]
    np.testing.assert_allclose(found.scores, [np.nan, 0.1235, np.nan])


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "owners",
        [1, 2],
        {},
        {"labels": [1]},
        {"labels": [1], "scores": []},
        {"labels": [-1], "scores": [0.5]},
        {"labels": [2**16], "scores": [0.5]},
        {"labels": [2**99], "scores": [0.5]},
        {"labels": [1.5], "scores": [0.5]},
        {"labels": ["1"], "scores": [0.5]},
        {"labels": [[1]], "scores": [[0.5]]},
        {"labels": [1], "scores": ["high"]},
        {"labels": 1, "scores": 0.5},
    ],
)
def test_other_values_are_no_owners(wrong: Any) -> None:
    assert Owners.parse(wrong) is None


def test_no_objects() -> None:
    found = Owners.parse({"labels": [], "scores": []})
    assert found is not None
    assert found.names(TEXTS) == {}


def test_over_time_only_what_always_holds_is_kept() -> None:
    first, second = owners(3, 7, 7), owners(3, 3)
    common = Owners.common([first, second])
    assert common is not None
    assert common.labels.tolist() == [0, 3, 0, 7]
    assert Owners.common([first]) is first
    assert Owners.common([]) is None


def test_columns_of_a_table() -> None:
    table = pd.DataFrame(
        {"id": [2, 1, 9], "prompt": ["a", "b", ""], "voxels": [1, 2, 3]}
    )
    owners(7, 3).add_to(table)
    assert list(table) == ["id", "prompt", "label", "score", "voxels"]
    assert table["label"].tolist() == [3, 7, 0]
    np.testing.assert_array_equal(table["score"], np.float32([0.5, 0.5, np.nan]))
