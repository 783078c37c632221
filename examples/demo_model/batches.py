"""Cases to batches: which slice, which prompts, which part of it, how distorted.

A batch depends only on the seed and its number, so that an interrupted run resumes with
the data it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.training.losses import Targets, instance_edges
from napari_biomedparse.training.slices import Batch, padded

SEEN = 24
"""Pixels of a target that must be in a slice for it to exist there."""
STRIDE = 4
"""Pixels of a slice per pixel of the predicted masks."""
OBJECTS = 65_536
"""More than there are objects of a label in a case."""
BORDER_GAIN, CONTACT_GAIN = 0.6, 3.0
"""What objects share of a coarse pixel, to what an edge it is: where two objects meet,
a little makes it one; at other borders, where an edge would only shrink the object,
hardly anything does."""


@dataclass(frozen=True)
class Case:
    """One volume with its truth.

    Parameters
    ----------
    kind : str
        Data set or modality: a prompt means one label in each kind.
    image : array, uint8 [Z,Y,X]
        Grey levels.
    labels : array, uint8 [Z,Y,X]
        Label of the target at each voxel, 0 for none.
    objects : array, uint16 [Z,Y,X]
        Number of the object at each voxel, 0 for none.
    """

    kind: str
    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    objects: npt.NDArray[np.uint16]

    def __post_init__(self) -> None:
        """Refuse arrays that do not lie on one grid."""
        if not self.image.shape == self.labels.shape == self.objects.shape:
            raise VolumeError(
                f"A {self.kind} training case has an image of shape "
                f"{self.image.shape}, labels of shape {self.labels.shape} and objects "
                f"of shape {self.objects.shape}; they must be the same."
            )


class Question(NamedTuple):
    """A prompt of a batch: its token ids, and the label it asks for in each kind."""

    ids: npt.NDArray[np.int64]
    answers: Mapping[str, int]


def question(text: str, answers: Mapping[str, int]) -> Question:
    """Make a `Question` of a text and the label it asks for in each kind."""
    tokens = tokenize(text)
    return Question(tokens.ids[: tokens.length], answers)


@dataclass(frozen=True)
class Augmentation:
    """How slices are varied; each range is drawn from anew for every slice.

    Parameters
    ----------
    crop : tuple of (float, float, float)
        Chance, smallest and largest side of the part cut out, in pixels of the case.
    stretch : float
        Largest relative difference of the part's two sides.
    margin : float
        Chance of black margins at two sides, as from padding to a square.
    still : float
        Chance that a neighbouring slice is replaced by the slice itself.
    gain, offset : float
        Largest relative change of contrast, and of brightness in parts of 255.
    gamma : float
        Largest exponent, and one over the smallest.
    noise : float
        Largest standard deviation of added noise, in grey levels.
    blur : float
        Chance of a loss of resolution to as little as half.
    """

    crop: tuple[tuple[float, float, float], ...] = (
        (0.6, 108.0, 150.0),
        (0.25, 150.0, 256.0),
        (0.15, 64.0, 108.0),
    )
    stretch: float = 0.2
    margin: float = 0.12
    still: float = 0.1
    gain: float = 0.3
    offset: float = 0.12
    gamma: float = 1.4
    noise: float = 12.0
    blur: float = 0.15


class Batches:
    """Balanced batches from cases.

    Parameters
    ----------
    cases : sequence of Case
        Volumes in memory.
    ask : callable
        ``ask(rng)`` returns the questions of one batch.
    size : int
        Side of the slices in pixels.
    slices : int
        Slices in a batch.
    seed : int
        Fixes every batch.
    augmentation : Augmentation, optional
        None leaves slices as they are, whole.
    again : sequence of (str, int)
        Kind and label of targets whose turn comes once more for each mention.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        ask: Callable[[np.random.Generator], list[Question]],
        *,
        size: int,
        slices: int,
        seed: int,
        augmentation: Augmentation | None = None,
        again: Sequence[tuple[str, int]] = (),
    ) -> None:
        self._cases, self._ask = cases, ask
        self._size, self._slices, self._seed = size, slices, seed
        self._augmentation = augmentation
        self._where = _occurrences(cases)
        self._wanted = [*sorted(self._where), *(t for t in again if t in self._where)]

    def __getitem__(self, step: int) -> Batch:
        """Make batch number `step`."""
        rng = np.random.default_rng([self._seed, step])
        questions = self._ask(rng)
        shift = int(rng.integers(len(self._wanted)))
        drawn = [self._draw(rng, step + shift + i) for i in range(self._slices)]
        pictures = torch.stack([picture for picture, _, _ in drawn])
        truths = torch.stack([truth for _, truth, _ in drawn])
        kinds = [kind for _, _, kind in drawn]
        return _assemble(pictures, truths, kinds, questions, step)

    def _draw(self, rng: np.random.Generator, turn: int) -> tuple[Tensor, Tensor, str]:
        """Draw a slice in which the target whose turn it is occurs, as often as not."""
        kind, label = self._wanted[turn % len(self._wanted)]
        if rng.random() < 0.75:
            found = self._where[kind, label]
            index, z = found[rng.integers(len(found))]
        else:
            same = [i for i, case in enumerate(self._cases) if case.kind == kind]
            index = same[rng.integers(len(same))]
            z = int(rng.integers(len(self._cases[index].image)))
        case = self._cases[index]
        planes, truth = _planes(case, z)
        if self._augmentation is None:
            return *_resized(planes, truth, self._size), kind
        spots = np.argwhere(case.labels[z] == label)
        focus = spots[rng.integers(len(spots))] if len(spots) else None
        planes, truth = _cut(rng, planes, truth, focus, self._augmentation)
        picture, truth = _resized(planes, truth, self._size)
        picture, truth = _turn(rng, picture, truth)
        return _distort(rng, picture, self._augmentation), truth, kind


def _occurrences(cases: Sequence[Case]) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """List (case, slice) by kind and label."""
    where: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for index, case in enumerate(cases):
        for z, plane in enumerate(case.labels):
            sizes = np.bincount(plane.ravel())
            for label in np.flatnonzero(sizes >= SEEN):
                if label:
                    where.setdefault((case.kind, int(label)), []).append((index, z))
    return where


def _planes(case: Case, z: int) -> tuple[Tensor, Tensor]:
    """Take a slice with its neighbours, uint8 [3,Y,X], and its truth, float [3,Y,X].

    The truth is label, object number, and whether another object of the same target
    lies directly before or behind (1 where it does), to part stacked objects.
    """
    depth = len(case.image)
    before, after = (z - 1 if z else min(1, depth - 1)), z + 1
    after = after if after < depth else max(depth - 2, 0)
    stacked = np.zeros(case.labels.shape[1:], bool)
    for other in (z - 1, z + 1):
        if 0 <= other < depth:
            same = case.labels[other] == case.labels[z]
            stacked |= same & (case.objects[other] != case.objects[z])
    truth = np.stack([case.labels[z], case.objects[z], stacked]).astype(np.float32)
    return torch.from_numpy(case.image[[z, before, after]]), torch.from_numpy(truth)


def _cut(
    rng: np.random.Generator,
    planes: Tensor,
    truth: Tensor,
    focus: npt.NDArray[np.intp] | None,
    options: Augmentation,
) -> tuple[Tensor, Tensor]:
    """Cut out a part of random size, about `focus` or anywhere; maybe add margins."""
    chances = [chance for chance, _, _ in options.crop]
    _, low, high = options.crop[rng.choice(len(chances), p=chances)]
    side = np.exp(rng.uniform(np.log(low), np.log(high)))
    ratio = 1.0 + rng.uniform(0.0, options.stretch)
    sides = np.array([side, side / ratio])[:: rng.choice([-1, 1])]
    whole = np.array(planes.shape[-2:])
    sides = np.minimum(np.round(sides).astype(int), whole)
    start = rng.integers(0, whole - sides + 1)
    if focus is not None and rng.random() < 0.7:
        start = focus - (sides * rng.uniform(0.15, 0.85, 2)).astype(int)
        start = np.clip(start, 0, whole - sides)
    (y, x), (height, width) = start.tolist(), sides.tolist()
    window = (..., slice(y, y + height), slice(x, x + width))
    planes, truth = planes[window].clone(), truth[window].clone()
    if rng.random() < options.margin:
        share = rng.uniform(0.05, 0.3)
        border = int(share * width)
        for part in (planes, truth):
            part[..., :border] = 0
            part[..., width - border :] = 0
    if rng.random() < options.still:
        planes[rng.integers(1, 3)] = planes[0]
    return planes, truth


def _resized(planes: Tensor, truth: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Resize as the pipeline does: bicubic on uint8, nearest for the truth."""
    if planes.shape[-2:] == (size, size):
        return planes.float(), truth
    picture = F.interpolate(planes[None], (size, size), mode="bicubic")[0]
    return picture.float(), F.interpolate(truth[None], (size, size))[0]


def _turn(
    rng: np.random.Generator, picture: Tensor, truth: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotate by quarter turns, flip, and swap the neighbours."""
    turns, flip, swap = int(rng.integers(4)), rng.random() < 0.5, rng.random() < 0.5
    picture, truth = (torch.rot90(x, turns, (-2, -1)) for x in (picture, truth))
    if flip:
        picture, truth = picture.flip(-1), truth.flip(-1)
    return (picture[[0, 2, 1]] if swap else picture), truth


def _distort(
    rng: np.random.Generator, picture: Tensor, options: Augmentation
) -> Tensor:
    """Change contrast, brightness and gamma; blur; add noise. Margins stay black."""
    black = picture[0] == 0
    size = picture.shape[-1]
    if rng.random() < options.blur:
        less = int(size * rng.uniform(0.5, 0.9))
        smaller = F.interpolate(picture[None], (less, less), mode="area")
        picture = F.interpolate(smaller, (size, size), mode="bilinear")[0]
    mean = picture.mean()
    gain = 1.0 + rng.uniform(-options.gain, options.gain)
    picture = (picture - mean) * gain + mean
    picture = picture + 255.0 * rng.uniform(-options.offset, options.offset)
    exponent = options.gamma ** rng.uniform(-1.0, 1.0)
    picture = 255.0 * (picture.clamp(0.0, 255.0) / 255.0) ** exponent
    if rng.random() < 0.5:
        noise = rng.standard_normal(tuple(picture.shape), dtype=np.float32)
        picture = picture + torch.from_numpy(noise) * rng.uniform(0.0, options.noise)
    picture = picture.clamp(0.0, 255.0).round()
    return picture * ~black


def _assemble(
    pictures: Tensor,
    truths: Tensor,
    kinds: list[str],
    questions: list[Question],
    number: int,
) -> Batch:
    """Compare every slice with every question."""
    wanted = torch.tensor(
        [[asked.answers.get(kind, -1) for asked in questions] for kind in kinds]
    )
    labels, objects, stacked = truths.unbind(1)
    masks = labels[:, None] == wanted[:, :, None, None]  # [B, P, S, S]
    present = masks.flatten(2).any(dim=2)
    edges = torch.zeros_like(masks)
    edges[present] = instance_edges((objects[:, None] * masks)[present])
    meeting = instance_contacts(objects + labels * OBJECTS)
    # As wide within the slice as what meets there: one pixel would let objects leak.
    meeting |= F.max_pool2d(stacked, kernel_size=5, stride=1, padding=2) > 0
    coarse = (pictures.shape[-2] // STRIDE, pictures.shape[-1] // STRIDE)
    contacts = (CONTACT_GAIN * coverage(meeting[:, None] & masks, coarse)).clamp(max=1)
    borders = torch.maximum(BORDER_GAIN * coverage(edges, coarse), contacts)
    sizes = masks.sum(dim=(-2, -1))
    exists = (sizes >= SEEN).float()
    counts = ((sizes == 0) | (sizes >= SEEN)).float()
    ids, real = padded([q.ids for q in questions])
    targets = Targets(coverage(masks, coarse), borders, exists, counts)
    return Batch(pictures, ids, real, targets, number)


def instance_contacts(objects: Tensor) -> Tensor:
    """Mark where two objects meet, or all but meet, wider than `instance_edges` does.

    Masks are predicted at a quarter of the resolution, where a border two pixels wide
    gets lost; what parts touching objects must not.

    Parameters
    ----------
    objects : Tensor [B, H, W]
        Object numbers, 0 outside.

    Returns
    -------
    bool Tensor [B, H, W]
        True where the 7 x 7 neighbourhood holds more than one object.
    """
    values = objects.to(torch.float32)
    inside = torch.where(values > 0, values, torch.inf)
    highest = F.max_pool2d(values, kernel_size=7, stride=1, padding=3)
    lowest = -F.max_pool2d(-inside, kernel_size=7, stride=1, padding=3)
    return (highest > lowest) & (highest > 0)


def coverage(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the share of each coarser pixel that `mask` covers.

    Parameters
    ----------
    mask : bool Tensor [B, P, H, W]
        At the resolution of the slices.
    size : tuple of int
        Height and width of the network's output.

    Returns
    -------
    float32 Tensor [B, P, h, w]
        0 to 1.
    """
    return F.interpolate(mask.to(torch.float32), size=size, mode="area")
