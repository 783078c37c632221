"""The authors' table, and what the goldens of statistics do not reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_biomedparse.errors import FormatError, OptionError
from napari_biomedparse.labels.likeness import (
    combine_masks,
    drop_covered,
    mask_statistics,
    p_value,
    pairs_of,
    read_table,
)
from napari_biomedparse.pipeline.recognize import TARGETS


def test_the_table_is_that_of_the_authors() -> None:
    table = read_table()
    assert len(table) == 13
    assert sum(map(len, table.values())) == 61
    assert set(TARGETS) - set(table) == {"CT-Liver"}
    for kind in table:
        for target in TARGETS[kind]:
            assert len(pairs_of(table, kind, target)) == 4


def test_what_the_table_lacks_is_named() -> None:
    table = read_table()
    with pytest.raises(OptionError, match="'Photo' in the table; it has CT-Abdomen"):
        pairs_of(table, "Photo", "cat")
    with pytest.raises(OptionError, match="'cat' of OCT in the table; it has edema"):
        pairs_of(table, "OCT", "cat")


@pytest.mark.parametrize("text", ["", "[1]", '{"OCT": [1]}', '{"OCT": {"a": [[1]]}}'])
def test_another_file_is_no_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(FormatError, match=r"t\.json"):
        read_table(tmp_path / "t.json")
    with pytest.raises(FormatError, match=r"none\.json"):
        read_table(tmp_path / "none.json")


def test_statistics_are_of_the_pixels_inside() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = 64, 128, 192
    probability = np.array([[1.0, 0.501], [0, 0]], np.float32)  # 0.501 is not inside
    found = mask_statistics(image, probability)
    np.testing.assert_allclose(found * 256, [255, 64, 128, 192])
    assert not mask_statistics(image, 0.501 * np.ones((2, 2), np.float32)).any()
    assert p_value(np.zeros(4), [[2, 3]] * 4) == 0


def test_a_mask_that_another_covers_is_dropped() -> None:
    masks = np.zeros((3, 4, 4), np.float32)
    masks[0, :2], masks[1, :3], masks[2, 3] = 0.9, 0.8, 0.7
    assert drop_covered(masks, [0.1, 0.5, 0.2]) == [1, 2]
    assert drop_covered(masks, [0.5, 0.5, 0.2]) == [0, 2]  # of equals the first


def test_disjoint_masks_are_the_most_probable_ones() -> None:
    masks = np.zeros((2, 1, 4), np.float32)
    masks[0, 0], masks[1, 0] = [0.9, 0.8, 0.6, 0.2], [0, 0.2, 0.7, 0.9]
    kept, found = combine_masks(masks)
    assert kept == [0, 1]
    np.testing.assert_array_equal(found[:, 0], [[1, 1, 0, 0], [0, 0, 1, 1]])
    kept, found = combine_masks(masks[:0])
    assert kept == []
    assert found.shape == (0, 1, 4)
