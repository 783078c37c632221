"""Cut volumes into batches of slices with their prompts, the same in every run.

A batch holds slices of one data set and depends only on the seed, the epoch and its
number, so that an interrupted run resumes with the data it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from napari_biomedparse.networks.blocks.tokenizer import END_ID, tokenize
from napari_biomedparse.slicing.geometry import neighbour_index, plan_slices, published
from napari_biomedparse.training.augment import Variation, resized, shrunk, vary
from napari_biomedparse.training.losses import Targets, instance_edges
from napari_biomedparse.training.volumes import TrainingVolume, targets

if TYPE_CHECKING:
    from napari_biomedparse.training.options import FinetuneOptions

T = TypeVar("T")
EMPTY_SHARE = 0.25
"""Slices without any target per slice with some: enough to learn what is absent."""


class Sample(NamedTuple):
    """A slice: number of its volume, slicing axis, position along it."""

    volume: int
    axis: int
    place: int


@dataclass(frozen=True)
class Split:
    """Slices to train on, slices held out, and `how` in words."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    how: str
    """For the record; slices are counted in the training set, not in their image."""
    shown: str = ""
    """For people, if that is not the same."""


def split(
    volumes: Sequence[TrainingVolume],
    share: float,
    seed: int,
    empty: float = EMPTY_SHARE,
) -> Split:
    """Hold out a share of the volumes, or a block of slices of a single volume.

    The slices on either side of a block are not used at all, as they are seen as
    neighbours of held-out ones. A single volume is sliced along its first axis only,
    because slices along other axes would cross the block. `empty` slices, without any
    target, are kept as that share of the others.
    """
    rng = np.random.default_rng([seed, 1])
    samples = [s for i, volume in enumerate(volumes) for s in _useful(volume, i, empty)]
    if share == 0:
        return Split(tuple(samples), (), "nothing")
    if len(volumes) > 1:
        count = min(max(1, round(share * len(volumes))), len(volumes) - 1)
        out = set(rng.permutation(len(volumes))[:count].tolist())
        return Split(
            tuple(s for s in samples if s.volume not in out),
            tuple(s for s in samples if s.volume in out),
            "volumes " + ", ".join(volumes[i].name for i in sorted(out)),
        )
    axis = volumes[0].axes[0]
    places = _places(volumes[0], axis)
    length = max(1, round(share * len(places)))
    start = int(rng.integers(0, len(places) - length + 1))
    first, last = int(places[start]), int(places[start + length - 1])
    samples = [sample for sample in samples if sample.axis == axis]
    return Split(
        tuple(s for s in samples if not first - 1 <= s.place <= last + 1),
        tuple(s for s in samples if first <= s.place <= last),
        f"slices {first} to {last} of {volumes[0].name}",
        f"{length} of {len(places)} slices of {volumes[0].name}",
    )


class Batch(NamedTuple):
    """What enters the network, and what it should predict."""

    slices: Tensor  # float32 [B, 3, S, S], 0 to 255: slice, previous, next
    ids: Tensor  # int64 [P, L], token ids, padded with the end token
    real: Tensor  # bool [P, L], False on the padding
    targets: Targets  # at the resolution of the slices, or a lower one
    number: int  # since the start


class SliceBatches:
    """Batches by their number since the start, of slices of `size` pixels a side.

    Without `variation`, slices and their order are unchanged, and the wordings are
    always the same. Slices read `alone` have no neighbours, and no prompt need be for
    an absent target, as for BiomedParse v1. Without `edges` there are none to learn.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        samples: Sequence[Sample],
        options: FinetuneOptions,
        size: int,
        variation: Variation | None,
        *,
        alone: bool = False,
        edges: bool = True,
    ) -> None:
        self._alone, self._edges = alone, edges and not alone
        self._volumes, self._size, self._variation = volumes, size, variation
        self._options = options
        self._groups: dict[str, list[Sample]] = {}
        for sample in samples:
            self._groups.setdefault(volumes[sample.volume].dataset, []).append(sample)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        size = self._options.batch_size
        return sum(-(-len(group) // size) for group in self._groups.values())

    def order(self, epoch: int) -> list[list[Sample]]:
        """Return the slices of each batch of an epoch."""
        rng = np.random.default_rng([self._options.seed, 2, epoch])
        batches = []
        for _, group in sorted(self._groups.items()):
            shuffled = self._shuffled(rng, group)
            for start in range(0, len(group), self._options.batch_size):
                batches.append(shuffled[start : start + self._options.batch_size])
        return self._shuffled(rng, batches)

    def _shuffled(self, rng: np.random.Generator, items: list[T]) -> list[T]:
        """Shuffle a list, if anything varies."""
        if self._variation is None:
            return items
        return [items[i] for i in rng.permutation(len(items))]

    def __getitem__(self, number: int) -> Batch:
        """Make a batch."""
        epoch, place = divmod(number, len(self))
        epoch = 0 if self._variation is None else epoch
        rng = np.random.default_rng([self._options.seed, 3, epoch, place])
        samples = self.order(epoch)[place]
        pictures, planes = [], []
        for sample in samples:
            volume = self._volumes[sample.volume]
            picture, labels = cut(volume, sample, self._size, alone=self._alone)
            if self._variation is not None:
                changes = self._variation
                if volume.has_channels:
                    changes = replace(changes, swap=False)
                picture, labels = vary(rng, picture, labels, changes)
            pictures.append(picture)
            planes.append(labels)
        volume = self._volumes[samples[0].volume]
        chosen = self._choose_prompts(rng, volume, np.stack(planes))
        tokens = [tokenize(text) for _, text in chosen]
        ids, real = padded([one.ids[: one.length] for one in tokens])
        wanted = [label for label, _ in chosen]
        truth = make_targets(np.stack(planes), volume, wanted, edges=self._edges)
        return Batch(torch.stack(pictures), ids, real, truth, number)

    def _choose_prompts(
        self,
        rng: np.random.Generator,
        volume: TrainingVolume,
        planes: npt.NDArray[np.int64],
    ) -> list[tuple[int, str]]:
        """Choose label ids and wordings; ids that occur come first, 0 means absent.

        At least one prompt is for an absent target, if there is one.
        """
        wordings = volume.wordings
        values = set(np.unique(planes).tolist()) - {0}
        if wordings.instance:
            values = set(wordings.classes) if values else set()
        elif wordings.overlapping:
            sums = int(np.bitwise_or.reduce(planes, axis=None))
            values = {label for label in wordings.classes if sums & label}
        here = [label for label in wordings.classes if label in values]
        others = [
            *((k, wordings.texts[k]) for k in wordings.classes if k not in values),
            *((0, (text,)) for text in wordings.absent),
        ]
        here, others = self._shuffled(rng, here), self._shuffled(rng, others)
        most = self._options.prompts
        room = most - (1 if others and most > 1 and not self._alone else 0)
        chosen = [(label, wordings.texts[label]) for label in here[:room]]
        chosen += others[: most - len(chosen)]
        which = 0 if self._variation is None else int(rng.integers(2**31))
        return [(label, texts[which % len(texts)]) for label, texts in chosen]


def cut(
    volume: TrainingVolume, sample: Sample, size: int, *, alone: bool = False
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Cut a slice as inference does, and its labels.

    Returns float32 grey levels [3, S, S], the slice, previous and next (`alone`, three
    times the slice) or the slice's own channels, and int64 labels [S, S] of the voxels
    at the pixels' centres. Images are prepared as v2's 2-D mode does.
    """
    turn = published(alone=alone, nifti=volume.nifti)
    shape = volume.labels.shape
    planar = not alone and (volume.has_channels or shape[0] == 1)
    geometry = plan_slices(
        shape, size, sample.axis, alone=alone, planar=planar, turn=turn
    )
    if volume.has_channels:
        planes = np.moveaxis(volume.image.take(sample.place, 0), -1, 0)
    else:
        near = (sample.place + step for step in ((0,) if alone else (0, -1, 1)))
        places = [neighbour_index(place, geometry.depth) for place in near]
        planes = np.stack([volume.image.take(i, sample.axis) for i in places])
    labels = np.asarray(volume.labels.take(sample.place, sample.axis), np.int64)
    square = np.pad(turn.forth(labels), geometry.pad)
    small = shrunk(square, size) if planar else resized(square, size)
    return geometry.prepare(planes).float().expand(3, -1, -1), small


def make_targets(
    planes: npt.NDArray[np.int64],
    volume: TrainingVolume,
    labels: Sequence[int],
    *,
    edges: bool = True,
) -> Targets:
    """Make the truth from labels [B, S, S], at the full resolution of the slices.

    `labels` has the label id of each prompt, 0 for none; the wordings of `volume` say
    what label values are. See `instance_edges` for `edges`.
    """
    values = torch.from_numpy(planes)[:, None]
    wanted = torch.tensor(labels)[None, :, None, None]
    if volume.wordings.overlapping:
        masks = (values & wanted) > 0
    else:
        found = values > 0 if volume.wordings.instance else values == wanted
        masks = found & (wanted > 0)
    outlined = values * masks if volume.wordings.instance else masks
    lines = instance_edges(outlined) if edges else masks[..., :0]
    exists = masks.flatten(2).any(dim=2).float()
    return Targets(masks.float(), lines.float(), exists, torch.ones_like(exists))


def _useful(volume: TrainingVolume, number: int, share: float) -> list[Sample]:
    """List the slices with a target, and some without, as a share of them."""
    there = targets(volume.labels, volume.wordings)
    chosen = []
    for axis in volume.axes:
        others = tuple(i for i in range(3) if i != axis)
        places = _places(volume, axis)
        found = np.asarray(there.any(axis=others))[places]
        empty = places[~found]
        count = min(len(empty), int(np.ceil(share * found.sum())))
        kept = empty[np.linspace(0, len(empty) - 1, count).round().astype(int)]
        where = np.sort(np.concatenate([places[found], kept]))
        chosen += [Sample(number, axis, int(index)) for index in where]
    return chosen


def _places(volume: TrainingVolume, axis: int) -> npt.NDArray[np.int64]:
    """Return the slices along an axis whose labels may be used."""
    if volume.reviewed is None:
        return np.arange(volume.labels.shape[axis], dtype=np.int64)
    return np.unique(np.asarray(volume.reviewed, np.int64))


def padded(prompts: Sequence[npt.NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Pad token ids with end tokens to a common length.

    Returns ids, int64 [P, L], and which are not padding, bool [P, L].
    """
    each = [torch.from_numpy(prompt) for prompt in prompts]
    ids = pad_sequence(each, batch_first=True, padding_value=END_ID)
    counts = torch.tensor([len(prompt) for prompt in prompts])
    return ids, torch.arange(ids.shape[1]) < counts[:, None]
