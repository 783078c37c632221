"""Variations keep a picture and its labels together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_biomedparse.training.augment import Variation, vary

SIZE = 40


def marked() -> tuple[torch.Tensor, np.ndarray]:
    """Label 1 is bright, in all three channels; the neighbours differ a little."""
    labels = np.zeros((SIZE, SIZE), np.int64)
    labels[6:18, 10:34] = 1
    grey = torch.from_numpy(np.where(labels > 0, 200.0, 100.0)).float()
    return torch.stack([grey, grey - 10, grey + 10]), labels


@pytest.mark.parametrize("seed", range(20))
def test_labels_go_where_the_picture_goes(seed: int) -> None:
    picture, labels = marked()
    calm = Variation(chance=0.7, brightness=0.02, noise=2.0, specks=0.0)
    varied, moved = vary(np.random.default_rng(seed), picture, labels, calm)
    assert varied.shape == picture.shape and moved.shape == labels.shape
    bright = varied[0].numpy() > 150
    assert (bright != (moved > 0)).mean() < 0.03  # pixels at the border


def test_everything_follows_from_the_generator() -> None:
    first, second = (
        vary(np.random.default_rng(4), *marked(), Variation(chance=1.0))
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_quarter_turns_alone_lose_nothing() -> None:
    picture, labels = marked()
    turned = {
        tuple(np.argwhere(vary(np.random.default_rng(seed), picture, labels,
                               Variation(chance=0.0))[1]).min(axis=0).tolist())
        for seed in range(20)
    }  # fmt: skip
    assert len(turned) == 4


@pytest.mark.parametrize("turn", [False, True])
def test_scaled_alone_a_slice_keeps_its_colors_and_maybe_its_orientation(
    turn: bool,
) -> None:
    picture, labels = marked()
    sizes, turned = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        varied, moved = vary(rng, picture, labels, Variation(scale=0.1, turn=turn))
        assert varied.shape == picture.shape and moved.shape == labels.shape
        assert ((varied[0].numpy() > 150) != (moved > 0)).mean() < 0.05
        assert torch.equal(varied, varied.round())
        rows, columns = (int(moved.any(axis=axis).sum()) for axis in (1, 0))
        turned.append(rows > columns)
        sizes.append(max(rows, columns) / 24)
    assert 0.85 < min(sizes) < 0.95 and 1.05 < max(sizes) < 1.15
    assert any(turned) is turn and not all(turned)


def test_nothing_changes_without_chance_and_turns() -> None:
    picture, labels = marked()
    still = Variation(chance=0.0, turn=False)
    varied, moved = vary(np.random.default_rng(1), picture, labels, still)
    assert torch.equal(varied, picture)
    np.testing.assert_array_equal(moved, labels)


def test_grey_levels_stay_whole_and_black_stays_black() -> None:
    picture, labels = marked()
    picture[..., :8] = 0
    wild = Variation(chance=1.0, crop=0.0, brightness=0.5, noise=60.0, specks=0.0)
    varied, _ = vary(np.random.default_rng(0), picture, labels, wild)
    assert float(varied.min()) == 0 and float(varied.max()) <= 255
    assert torch.equal(varied, varied.round())
    assert int((varied[0] == 0).sum()) >= 8 * SIZE


def test_neighbours_may_change_places_but_the_slice_itself_stays_first() -> None:
    picture, labels = marked()
    plain = Variation(chance=1.0, crop=0.0, brightness=0.0, noise=0.0, specks=0.0)
    varied, _ = vary(np.random.default_rng(0), picture, labels, plain)
    means = varied.mean(dim=(1, 2)) - picture.mean(dim=(1, 2))
    assert means.round().tolist() == [0, 20, -20]
