"""Corrections of single objects, from shapes whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels import proofread
from napari_biomedparse.labels.proofread import (
    MARGIN,
    Change,
    between,
    object_at,
    relabeled,
    small_objects,
    smoothed,
    split,
    without_holes,
)


def applied(labels: np.ndarray, change: Change) -> np.ndarray:
    changed = labels.copy()
    changed[change.voxels] = change.values
    return changed


class OnDisk:
    """Labels that are read box by box, and what was read of them."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels, self.shape, self.read = labels, labels.shape, 0

    def __getitem__(self, box: Any) -> np.ndarray:
        part = self.labels[box]
        self.read = max(self.read, part.size)
        return part


def test_an_object_is_found_without_reading_all() -> None:
    labels = np.zeros((300, 200, 100), np.uint8)
    labels[100:170, 50:60, 50:53] = 3
    labels[100:170, 60, 50:53] = 4
    labels[290:295, 1:9, 1:9] = 3
    lazy = OnDisk(labels)
    found = object_at(lazy, (120, 55, 51))
    assert found.box == (slice(100, 170), slice(50, 60), slice(50, 53))
    assert found.mask.all()
    assert lazy.read < labels.size / 10
    corner = object_at(labels, (292, 4, 4), margin=5)
    assert corner.box == (slice(285, 300), slice(0, 14), slice(0, 14))
    assert corner.mask.sum() == 5 * 8 * 8
    for nowhere in ((0, 0, 0), (-1, 0, 0), (300, 0, 0)):
        with pytest.raises(VolumeError, match="no object here"):
            object_at(labels, nowhere)


def test_a_box_that_is_too_large_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofread, "MOST", 50_000)
    with pytest.raises(VolumeError, match="larger than 50000 voxels"):
        object_at(np.ones((90, 90, 90), np.uint8), (5, 5, 5))


def test_delete_and_merge_change_the_object_alone() -> None:
    labels = np.zeros((3, 9, 9), np.uint8)
    labels[:, 1:4, 1:4], labels[:, 6:8, 6:8] = 1, 1
    labels[1, 4, 4] = 2
    deleted = applied(labels, relabeled(object_at(labels, (1, 2, 2)), 0))
    assert not deleted[:, 1:4, 1:4].any()
    assert deleted.sum() == 3 * 4 + 2
    merged = applied(labels, relabeled(object_at(labels, (1, 4, 4)), 1))
    assert merged[1, 4, 4] == 1
    assert (merged != labels).sum() == 1


def test_holes_are_filled_but_not_other_objects() -> None:
    labels = np.zeros((7, 9, 9), np.uint8)
    labels[1:6, 1:8, 1:8] = 5
    labels[2:5, 2:5, 2:5] = 0
    labels[3, 3, 3] = 2
    filled = applied(labels, without_holes(object_at(labels, (1, 1, 1))))
    assert filled[3, 3, 3] == 2
    assert (filled[1:6, 1:8, 1:8] > 0).all()
    assert (filled == 5).sum() == 5 * 7 * 7 - 1


def test_smoothing_removes_spikes_and_does_not_cover_others() -> None:
    labels = np.zeros((21, 21, 21), np.uint8)
    labels[5:16, 5:16, 5:16] = 1
    labels[10, 10, 16:20] = 1
    labels[5:16, 5:16, 16:17] = np.where(labels[5:16, 5:16, 16:17], 1, 2)
    smooth = applied(
        labels, smoothed(object_at(labels, (10, 10, 10), MARGIN), (1, 1, 1))
    )
    assert not smooth[10, 10, 17:20].any()
    assert (smooth == 2).sum() == (labels == 2).sum()
    assert abs((smooth == 1).sum() - 11**3) < 0.15 * 11**3


@pytest.mark.parametrize(("dy", "dx"), [(4, -3), (-4, 3), (0, -6), (5, 0)])
def test_clicks_need_not_be_in_the_middle(dy: int, dx: int) -> None:
    z, y, x = np.ogrid[:15, :60, :60]
    one, other = (
        4 * (z - 7) ** 2 + (y - 30) ** 2 + (x - c) ** 2 < 144 for c in (22, 40)
    )
    labels = np.where(one | other, 3, 0)
    places = (7, 30 + dy, 22 + dx), (7, 30 - dy, 40 - dx)
    apart = applied(labels, split(object_at(labels, places[0]), places, (2, 1, 1), 9))
    truth, found = other & ~one, (apart == 9) & (one ^ other)
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.9


def test_two_balls_are_split_where_they_touch() -> None:
    z, y, x = np.ogrid[:12, :24, :40]
    labels = np.zeros((12, 24, 40), np.uint16)
    labels[(z * 2 - 11) ** 2 + (y - 12) ** 2 + (x - 12) ** 2 < 90] = 7
    labels[(z * 2 - 11) ** 2 + (y - 12) ** 2 + (x - 27) ** 2 < 90] = 7
    found = object_at(labels, (5, 12, 12))
    places = (5, 12, 12), (6, 12, 27)
    apart = applied(labels, split(found, places, (2, 1, 1), 9))
    assert (apart > 0).sum() == (labels > 0).sum()
    assert (apart[..., :19] != 9).all()
    assert (apart[..., 21:] != 7).all()
    line = applied(labels, split(found, places, (2, 1, 1), 0))
    assert object_at(line, places[0]).mask.sum() < 0.6 * (labels > 0).sum()
    assert 0 < (line == 0).sum() - (labels == 0).sum() < 300
    with pytest.raises(VolumeError, match="twice in the same object"):
        split(found, ((5, 12, 12), (0, 0, 0)), (1, 1, 1), 9)


def test_masks_between_two_discs_grow_from_one_to_the_other() -> None:
    y, x = np.ogrid[:60, :60]
    first = (y - 20) ** 2 + (x - 20) ** 2 < 8**2
    second = (y - 32) ** 2 + (x - 20) ** 2 < 14**2
    found = between(first, second, 3)
    assert len(found) == 3
    areas = [mask.sum() for mask in (first, *found, second)]
    assert areas == sorted(areas)
    middle = np.argwhere(found[1]).mean(axis=0)
    np.testing.assert_allclose(middle, (26, 20), atol=1)
    np.testing.assert_array_equal(between(first, first, 1)[0], first)


def test_small_objects_are_pieces_of_any_label() -> None:
    labels = np.zeros((4, 10, 10), np.uint8)
    labels[:, :3, :3], labels[0, 5, 5], labels[1, 7:9, 7] = 1, 1, 2
    kept = applied(labels, small_objects(labels, 3))
    assert (kept > 0).sum() == 4 * 9
