"""Batches: repeatable, balanced, and true to the cases they are cut from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batches import (
    SEEN,
    Augmentation,
    Batches,
    Case,
    Question,
    coverage,
    instance_contacts,
    question,
)

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.training.losses import instance_edges

SIZE = 32


def case(kind: str = "a", depth: int = 5) -> Case:
    """Two touching squares of label 1, one of label 2 in the last slice only."""
    labels = np.zeros((depth, SIZE, SIZE), np.uint8)
    objects = np.zeros((depth, SIZE, SIZE), np.uint16)
    labels[:, 4:12, 4:20] = 1
    objects[:, 4:12, 4:12], objects[:, 4:12, 12:20] = 1, 2
    labels[-1, 20:28, 20:28], objects[-1, 20:28, 20:28] = 2, 3
    image = np.where(labels > 0, 200, 50) + np.arange(depth)[:, None, None]
    return Case(kind, image.astype(np.uint8), labels, objects)


def ask(rng: np.random.Generator) -> list[Question]:
    return [
        question("squares", {"a": 1, "b": 1}),
        question("the rare square at the end", {"a": 2}),
        question("nothing", {}),
    ]


def batches(*cases: Case, augmentation: Augmentation | None = None) -> Batches:
    return Batches(cases, ask, size=SIZE, slices=6, seed=5, augmentation=augmentation)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_a_batch_depends_on_seed_and_number_alone(
    augmentation: Augmentation | None,
) -> None:
    first = batches(case(), augmentation=augmentation)
    again = batches(case(), augmentation=augmentation)
    _ = again[0]
    torch.testing.assert_close(first[3].slices, again[3].slices)
    torch.testing.assert_close(first[3].targets, again[3].targets)
    assert not torch.equal(first[3].slices, first[4].slices)


def test_targets_agree_with_the_case() -> None:
    whole = case()
    batch = batches(whole)[0]
    assert batch.slices.shape == (6, 3, SIZE, SIZE)
    assert batch.targets.masks.shape == (6, 3, SIZE // 4, SIZE // 4)
    for picture, exists, mask in zip(
        batch.slices, batch.targets.exists, batch.targets.masks, strict=True
    ):
        z = int(picture[0, 0, 0]) - 50
        neighbours = [int(plane[0, 0]) - 50 for plane in picture[1:]]
        last = len(whole.image) - 1
        assert neighbours == [z - 1 if z else 1, z + 1 if z < last else last - 1]
        assert exists.tolist() == [1.0, float(z == last), 0.0]
        assert float(mask[0].sum()) == (whole.labels[z] == 1).sum() / 16
        assert not mask[2].any()


def test_rare_targets_come_about_as_often_as_common_ones() -> None:
    many = batches(case(depth=40))
    exists = torch.cat([many[step].targets.exists for step in range(20)])
    assert float(exists[:, 1].mean()) > 0.25


def test_edges_part_touching_objects_and_stay_with_their_target() -> None:
    batch = batches(case())[0]
    edges = batch.targets.edges
    assert bool((edges[:, 0, 1:3, 2] > 0.5).all() & (edges[:, 0, 1:3, 3] > 0.5).all())
    assert not edges[batch.targets.exists == 0].any()


def test_objects_that_meet_across_slices_are_parted_there() -> None:
    split = case(depth=4)
    split.objects[2:][split.objects[2:] == 1] = 9
    batch = batches(split)[0]
    for picture, edge in zip(batch.slices, batch.targets.edges, strict=True):
        z = int(picture[0, 0, 0]) - 50
        inside = float(edge[0, 2, 1])
        assert inside == (1.0 if z in (1, 2) else pytest.approx(edge[0, 2, 4]))


def test_a_question_has_its_own_answer_in_each_kind() -> None:
    exists = batches(case("b"))[1].targets.exists
    assert exists[:, 0].all() and not exists[:, 1:].any()


def test_a_trace_of_a_target_is_not_asked_about() -> None:
    little = case()
    little.labels[:, 20:28, 20:28] = 0
    little.labels[:, 20, 20 : 20 + SEEN - 1] = 2
    counts = batches(little)[0].targets.counts
    assert counts[:, 0].all() and not counts[:, 1].any() and counts[:, 2].all()


def test_augmented_slices_stay_grey_levels_and_keep_their_margins_black() -> None:
    wild = Augmentation(crop=((1.0, 24.0, 32.0),), margin=1.0, blur=1.0, noise=40.0)
    slices = batches(case(), augmentation=wild)[0].slices
    assert 0 <= float(slices.min()) and float(slices.max()) <= 255
    assert bool((slices == slices.round()).all())
    assert bool((slices[:, 0].flatten(1) == 0).any(dim=1).all())


def test_a_case_off_its_grid_is_refused() -> None:
    good = case()
    with pytest.raises(VolumeError, match="labels of shape \\(4, 32, 32\\)"):
        Case("a", good.image, good.labels[1:], good.objects)


def test_edges_part_touching_objects_and_contacts_only_those() -> None:
    objects = torch.zeros(1, 12, 16, dtype=torch.int64)
    objects[0, 3:9, 2:8], objects[0, 3:9, 8:14] = 1, 2
    assert bool(instance_edges(objects)[0, 3:9, 7:9].all())
    contacts = instance_contacts(objects)
    assert bool(contacts[0, 3:9, 5:11].all())
    assert not bool(contacts[0, :, :5].any())
    assert not bool(instance_contacts((objects == 1).long()).any())


def test_coverage_is_the_share_of_each_block() -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, :2, :4] = True
    coarse = coverage(mask, (2, 2))[0, 0]
    np.testing.assert_array_equal(coarse, [[0.5, 0.0], [0.0, 0.0]])
