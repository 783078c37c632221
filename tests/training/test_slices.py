"""Splits and batches: nothing held out is seen, and every run sees the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from training.data_folder import arrays

from napari_biomedparse.slicing.geometry import plan_slices, stack_context
from napari_biomedparse.training.augment import Variation
from napari_biomedparse.training.losses import instance_edges
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.slices import (
    Sample,
    SliceBatches,
    cut,
    make_targets,
    padded,
    split,
)
from napari_biomedparse.training.volumes import TrainingVolume
from napari_biomedparse.training.wordings import Wordings

WORDINGS = Wordings({1: ("bright squares", "squares"), 2: ("corner",)}, absent=("cat",))


def volume(
    seed: int = 0, dataset: str = "a", wordings: Wordings = WORDINGS, **changes: object
) -> TrainingVolume:
    image, labels = arrays(seed)
    axes = changes.get("axes", (0,))
    return TrainingVolume(f"{dataset}{seed}", dataset, image, labels, wordings, axes)


def batches(
    volumes: list[TrainingVolume],
    variation: Variation | None,
    slices: int = 3,
    prompts: int = 3,
) -> SliceBatches:
    options = FinetuneOptions(batch_size=slices, prompts=prompts, seed=1)
    samples = split(volumes, 0.0, 0).train
    return SliceBatches(volumes, samples, options, 32, variation)


# --- what is held out ----------------------------------------------------------------


def test_whole_volumes_are_held_out() -> None:
    parts = split([volume(i) for i in range(5)], 0.4, seed=3)
    train, held_out = ({s.volume for s in x} for x in (parts.train, parts.validation))
    assert len(held_out) == 2 and not train & held_out
    assert train | held_out == set(range(5))
    assert parts == split([volume(i) for i in range(5)], 0.4, seed=3)


def test_of_one_volume_a_block_and_its_neighbours_are_left_out() -> None:
    for seed in range(8):
        parts = split([volume(axes=(0, 1, 2))], 0.3, seed)
        samples = (*parts.train, *parts.validation)
        assert {sample.axis for sample in samples} == {0}
        seen = {s.place + step for s in parts.train for step in (-1, 0, 1)}
        assert parts.validation and not {s.place for s in parts.validation} & seen


def test_slices_without_a_target_are_the_fewer() -> None:
    samples = split([volume()], 0.0, 0).train
    labels = volume().labels
    empty = [s.place for s in samples if not labels[s.place].any()]
    assert len(samples) - len(empty) == 7 and 1 <= len(empty) <= 2


# --- slices and targets --------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_slices_are_cut_as_inference_does(axis: int, place: int) -> None:
    whole = volume()
    picture, labels = cut(whole, Sample(0, axis, place), 32)
    geometry = plan_slices(whole.image.shape, 32, axis)
    planes = np.moveaxis(whole.image, axis, 0)
    last = len(planes) - 1
    around = [place - 1 if place else 1, place, place + 1 if place < last else last - 1]
    expected = stack_context(geometry.prepare(planes[around]))[0]
    assert torch.equal(picture, expected.float())
    inside = geometry.restore(labels[None])[0]
    if axis == 0:
        np.testing.assert_array_equal(inside, whole.labels[place])


def test_targets_are_masks_and_their_gradient() -> None:
    whole = volume()
    planes = whole.labels[[0, 1, 4]].astype(np.int64)
    truth = make_targets(planes, whole, [1, 2, 0])
    assert truth.exists.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    masks = torch.from_numpy(planes == 1)
    assert torch.equal(truth.masks[:, 0].bool(), masks)
    assert torch.equal(truth.edges[:, 0].bool(), instance_edges(masks))
    assert not truth.masks[:, 2].any() and not truth.edges[:, 2].any()
    assert truth.counts.all()


def test_edges_part_objects_that_touch() -> None:
    wordings = Wordings({1: ("squares",)}, instance=True)
    whole = volume(wordings=wordings)
    planes = np.zeros((1, 32, 32), np.int64)
    planes[0, 4:20, 4:12], planes[0, 4:20, 12:20] = 7, 9
    truth = make_targets(planes, whole, [1])
    assert truth.masks[0, 0, 4:20, 4:20].all()
    assert truth.edges[0, 0, 5:19, 11:13].all() and not truth.edges[0, 0, 8, 8]


def test_alone_slices_are_squashed_and_have_no_neighbours() -> None:
    image, labels = arrays(0, (10, 32, 24))
    whole = TrainingVolume("a", "a", image, labels, WORDINGS, (0,))
    picture, found = cut(whole, Sample(0, 0, 4), 48, alone=True)
    expected = Image.fromarray(image[4]).resize((48, 48), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(picture[0], np.asarray(expected, np.float32))
    assert torch.equal(picture[0], picture[1]) and torch.equal(picture[0], picture[2])
    rows, columns = np.arange(48) * 2 // 3, np.arange(48) // 2
    np.testing.assert_array_equal(found, labels[4][rows[:, None], columns])


def test_v1_learns_nifti_as_it_is_shown_it() -> None:
    plain = volume()
    for axis in range(3):
        turned = replace(
            plain,
            image=plain.image.transpose(_swapped(axis)),
            labels=plain.labels.transpose(_swapped(axis)),
            nifti=True,
        )
        sample = Sample(0, axis, 4)
        for alone in (True, False):
            given = turned if alone else replace(plain, nifti=True)
            picture, found = cut(given, sample, 48, alone=alone)
            expected, labels = cut(plain, sample, 48, alone=alone)
            assert torch.equal(picture, expected)
            np.testing.assert_array_equal(found, labels)


def _swapped(axis: int) -> list[int]:
    """Axes in another order: rows and columns of slices along one are swapped."""
    first, second = (i for i in range(3) if i != axis)
    order = [0, 1, 2]
    order[first], order[second] = second, first
    return order


def test_alone_no_slice_or_prompt_is_of_what_is_absent() -> None:
    samples = split([volume()], 0.0, 0, empty=0.0).train
    assert all(volume().labels[sample.place].any() for sample in samples)
    options = FinetuneOptions(batch_size=9, prompts=2)
    batch = SliceBatches([volume()], samples, options, 32, None, alone=True)[0]
    assert batch.targets.exists.any(dim=0).all()
    assert not batch.targets.edges.numel()


# --- batches -------------------------------------------------------------------------


@pytest.mark.parametrize("variation", [None, Variation()])
def test_a_batch_follows_from_seed_epoch_and_number(
    variation: Variation | None,
) -> None:
    first, again = (batches([volume(0), volume(1)], variation) for _ in range(2))
    _ = again[0]
    one, other = (made[2 * len(made) + 1] for made in (first, again))
    torch.testing.assert_close(tuple(one[:3]), tuple(other[:3]), rtol=0, atol=0)
    torch.testing.assert_close(one.targets, other.targets, rtol=0, atol=0)


def test_an_epoch_sees_every_slice_once_in_another_order_each_time() -> None:
    made = batches([volume(0), volume(1, "b")], Variation())
    orders = [made.order(epoch) for epoch in range(2)]
    assert orders[0] != orders[1]
    expected = sorted(split([volume(0), volume(1, "b")], 0.0, 0).train)
    for order in orders:
        assert len(order) == len(made)
        assert sorted(sample for batch in order for sample in batch) == expected
        assert all(len({s.volume for s in batch}) == 1 for batch in order)


def test_prompts_that_occur_come_first_and_one_place_is_for_what_does_not() -> None:
    made = batches([volume()], Variation(chance=0.0), slices=9, prompts=2)
    exists = torch.cat([made[epoch].targets.exists for epoch in range(6)])
    per_batch = exists.reshape(6, 9, 2).any(dim=1)
    assert per_batch.sum(dim=1).tolist() == [1] * 6


def test_wordings_vary_in_training_only() -> None:
    def ids(made: SliceBatches) -> set[tuple[int, ...]]:
        found = (made[epoch * len(made)].ids for epoch in range(8))
        return {tuple(row) for batch in found for row in batch.tolist()}

    assert len(ids(batches([volume()], None, 9, 1))) == 1
    assert len(ids(batches([volume()], Variation(), 9, 1))) >= 2


def test_ids_are_padded_with_the_end_token() -> None:
    prompts = [np.array([49406, *ids, 49407]) for ids in ([7], [1, 2, 3, 4])]
    ids, real = padded(prompts)
    assert real.sum(dim=1).tolist() == [len(p) for p in prompts]
    assert ids[0, 2:].tolist() == [49407] * (ids.shape[1] - 2)
