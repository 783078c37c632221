"""Corrected slices of a volume become heads for its prompts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.io.contents import LabelVolume
from napari_biomedparse.io.durable import check_place
from napari_biomedparse.io.files import open_labels
from napari_biomedparse.learning.fit import Example, apply_head, dice, fit_head
from napari_biomedparse.networks.blocks.filters import filter_slice
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.network import KeptPrediction
from napari_biomedparse.networks.taught import TaughtNetwork, presence
from napari_biomedparse.networks.weights import TAUGHT, base_facts
from napari_biomedparse.pipeline.loop import Fine, plan_tokens
from napari_biomedparse.pipeline.segment import single_plan
from napari_biomedparse.slicing.read import slice_batches

if TYPE_CHECKING:
    from napari_biomedparse.data.options import OptionChanges, SegmentOptions
    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.networks.blocks.filters import Planes
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.pipeline.scores import ScoreStore
    from napari_biomedparse.pipeline.segment import Model
    from napari_biomedparse.slicing.geometry import SliceGeometry

SUFFIX = ".taught.safetensors"
STRENGTH = 0.02
"""Of the regularisation, for one corrected slice; less for several (docs/teach.md)."""
MOST_FOLDS = 4
BLOCKS = 8
"""A single slice is cut into this many blocks a side, left out in turns."""
UNKNOWN = -1
EMPTY = 0.5
"""Share of the least sure slice's logit below which slices are empty, unless corrected
ones tell."""
TRIED = 6_000
"""Pixels that a fit looks at which is only tried."""
MOST_SQUARES = 48
"""Squares, such as tiles of corrected slices, that are learned from."""


@dataclass(frozen=True)
class Lesson:
    """How well a prompt's target is found in corrected slices that were left out.

    Attributes
    ----------
    text : str
        The prompt.
    dice_text, dice_taught : float
        Dice coefficient, 0 to 1, of the text alone and of what was taught, in the
        network's pixels.
    """

    text: str
    dice_text: float
    dice_taught: float

    @property
    def helps(self) -> bool:
        """Whether teaching helped; the text alone stays if not."""
        return self.dice_taught > self.dice_text


@dataclass(frozen=True)
class Taught:
    """What `teach` returns.

    Attributes
    ----------
    network : Network
        A `model` for `segment` and all others.
    lessons : tuple of Lesson
        One for each prompt.
    slices : tuple of int
        The corrected slices.
    parameters : dict
        What the result depends on, as for a run.
    volume : str
        Its name.
    """

    network: TaughtNetwork
    lessons: tuple[Lesson, ...]
    slices: tuple[int, ...]
    parameters: dict[str, Any]
    volume: str

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a file of less than a megabyte, which is a model for `load_model`.

        The base network is not in it, but its name and checksum. An `OptionError` is
        raised for a name that does not end in ".taught.safetensors", an `OutputError`
        if the file exists or cannot be written.
        """
        path = Path(path)
        if not path.name.endswith(SUFFIX):
            raise OptionError(f"{path} must end in {SUFFIX}, such as nuclei{SUFFIX}.")
        base = base_facts(self.network.base)
        if base["base"] == "custom":
            raise OptionError(
                "The base network was not loaded by `load_model`, so it could not be "
                "found again. Save its weights, load them, and teach that."
            )
        check_place(path, overwrite=overwrite)
        facts = {
            **base,
            "texts": self.network.texts,
            "lessons": [asdict(one) for one in self.lessons],
            "slices": self.slices,
            "volume": self.volume,
            "parameters": self.parameters,
        }
        kept = "heads", "gates", "basis"
        tensors = {name: getattr(self.network, name).cpu() for name in kept}
        save_weights(path, tensors, {TAUGHT: json.dumps(facts)}, self.network.config)
        return path


def teach(
    volume: VolumeLike | str | os.PathLike[str],
    labels: Any,
    prompts: PromptsLike,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    corrected: Iterable[int] | None = None,
    device: str = "auto",
    **changes: Unpack[OptionChanges],
) -> Taught:
    """Learn from corrected slices what prompts mean in a volume.

    For every prompt, a linear function of the network's mask features, of classical
    filters and of the text's own logits is fitted to the corrected slices. The network
    itself does not change. Whether it helps is tried on corrected slices that are left
    out (parts of the slice, if there is one alone); if not, the text alone stays.

    Parameters
    ----------
    volume, prompts, model, options, device, **changes
        As for `segment`.
    labels : array of int, LabelVolume or path
        Of the volume's shape: the label id of a prompt, 0 where there is none of them,
        and -1 where nothing is known.
    corrected : iterable of int, optional
        Corrected slices along the slicing axis; every voxel of them counts. By default
        those with a label.

    Raises
    ------
    VolumeError, PromptError, OptionError
        If volume, labels, prompts or options cannot be used.
    CheckpointError, DeviceError
        If the model cannot be loaded, or not on that device.
    FormatError
        If a file cannot be read.
    """
    plan, engine = single_plan(volume, prompts, model, options, device, changes)
    given = _labels(labels)
    if given.shape != plan.geometry.shape:
        raise VolumeError(
            f"The labels have the shape {given.shape}, but {plan.volume.name} has "
            f"{plan.geometry.shape}; they must be equal."
        )
    chosen = _slices(plan, given, corrected)
    planes = {index: _plane(plan, given, index) for index in chosen}
    return teach_plan(plan, engine, planes)


def teach_plan(
    plan: RunPlan,
    engine: Engine,
    corrected: Mapping[int, npt.NDArray[np.integer[Any]]],
    store: ScoreStore | None = None,
    *,
    on_step: Callable[[], object] = lambda: None,
) -> Taught:
    """Learn from corrected slices of a plan; see `teach`.

    Parameters
    ----------
    corrected : mapping of int to int ndarray [Y, X]
        The labels of corrected slices; -1 where nothing is known.
    store : ScoreStore, optional
        Of a run of the same plan and network: what it has is not computed again.
    on_step : callable, optional
        Called again and again; may raise an error to stop.
    """
    base = engine.model
    if isinstance(base, TaughtNetwork):
        raise OptionError(
            "This model is taught already. Choose the one it is based on."
        )
    if not base.basis.numel():
        raise OptionError("This network keeps no features, so it cannot be taught.")
    fine = Fine(plan, wanted=True)
    squares = []
    for cut in _cut(plan, fine.geometry, corrected, MOST_SQUARES):
        on_step()
        squares.append(_see(plan, engine, fine, cut, store))
    lessons, taught = [], {}
    for at, (label, text) in enumerate(
        zip(plan.prompts.ids, plan.prompts.texts, strict=True)
    ):
        on_step()
        examples = [one.example(at, label) for one in squares]
        lesson = _try(text, examples)
        lessons.append(lesson)
        if lesson.helps:
            head = fit_head(examples, _strength(examples))
            taught[text] = head, _gate(head, examples)
    heads, gates = zip(*taught.values(), strict=True) if taught else ((), ())
    network = TaughtNetwork(
        base,
        tuple(taught),
        torch.stack(heads) if heads else torch.zeros(0, 0, 0),
        torch.stack(gates) if gates else torch.zeros(0),
        base.basis,
    )
    network = network.to(engine.device).eval().requires_grad_(False)
    slices = tuple(sorted(corrected))
    return Taught(network, tuple(lessons), slices, plan.parameters(), plan.volume.name)


class _Cut(NamedTuple):
    """A square of a corrected slice."""

    group: int  # number of its slice
    tile: int
    labels: Tensor  # int64 [S, S]


class _Square(NamedTuple):
    """A square that the network sees, and what it finds there for all prompts."""

    group: int  # number of its slice
    planes: Planes  # features and filters
    logits: Tensor  # float32 [P, h, w]
    existence: Tensor  # float32 [P]
    labels: Tensor  # int64 [R, R]

    def example(self, prompt: int, label: int) -> Example:
        """Return what there is to learn for a prompt."""
        return Example(
            self.group,
            self.logits[prompt],
            bool(self.existence[prompt] > 0),
            self.planes,
            self.labels == label,
            self.labels != UNKNOWN,
        )


def _labels(labels: Any) -> Any:
    """Return labels as an array [Z, Y, X], lazy if they are a file."""
    if isinstance(labels, str | os.PathLike):
        labels = open_labels(labels)
    if isinstance(labels, LabelVolume):
        labels = labels.volume.data
    labels = labels if hasattr(labels, "shape") else np.asarray(labels)
    return labels[None] if labels.ndim == 2 else labels


def _slices(
    plan: RunPlan, labels: Any, wanted: Iterable[int] | None
) -> tuple[int, ...]:
    """Choose the corrected slices: those wanted, or those with a label."""
    depth = plan.geometry.depth
    if wanted is None:
        wanted = [i for i in range(depth) if (_plane(plan, labels, i) > 0).any()]
        if not wanted:
            raise OptionError("The labels are empty: correct a slice first.")
    chosen = tuple(sorted({int(index) for index in wanted}))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < depth:
        raise OptionError(
            f"Corrected slices must be numbers from 0 to {depth - 1}; "
            f"given are {', '.join(map(str, chosen)) or 'none'}."
        )
    return chosen


def _plane(plan: RunPlan, labels: Any, index: int) -> Any:
    """Read a slice of the labels, [Y, X]."""
    where = [slice(None)] * 3
    where[plan.geometry.axis] = slice(index, index + 1)
    plane = np.asarray(labels[tuple(where)])
    return np.moveaxis(plane, plan.geometry.axis, 0)[0]


def _cut(
    plan: RunPlan,
    geometry: SliceGeometry,
    corrected: Mapping[int, npt.NDArray[Any]],
    most: int,
) -> Iterator[_Cut]:
    """Cut corrected slices into the squares that the network sees.

    Of more than `most`, three quarters are of those with a target, if there are enough.
    """
    size = plan.tiles.size if geometry is plan.geometry else geometry.working_shape[0]
    cuts = []
    for index, plane in sorted(corrected.items()):
        shrunk = geometry.shrink(plane[None].astype(np.int64), UNKNOWN)
        truth = torch.from_numpy(np.ascontiguousarray(shrunk[0]))
        for tile, (y, x) in enumerate(plan.tiles.corners):
            cuts.append(_Cut(index, tile, truth[y : y + size, x : x + size]))
    if len(cuts) > most:
        order = np.random.default_rng(0).permutation(len(cuts)).tolist()
        full = [at for at in order if (cuts[at].labels > 0).any()]
        first = full[: most * 3 // 4]
        rest = [at for at in order if at not in first]
        cuts = [cuts[at] for at in sorted([*first, *rest[: most - len(first)]])]
    yield from cuts


def _see(
    plan: RunPlan, engine: Engine, fine: Fine, cut: _Cut, store: ScoreStore | None
) -> _Square:
    """Compute features, filters and logits of a square, or take those of a run."""
    size, (y, x) = plan.tiles.size, plan.tiles.corners[cut.tile]
    at = plan.volume, plan.geometry, plan.intensity
    (batch,) = slice_batches(*at, cut.group, cut.group + 1, 1)
    square = batch.slices[:, :, y : y + size, x : x + size]
    if store is not None and store.has(cut.group, cut.group + 1):
        tiles = store.load(cut.group)
        found = KeptPrediction(*(values[[cut.tile]] for values in tiles))
    else:
        tokens = plan_tokens(plan, engine)
        found = engine.predict_by_text(square, tokens, remember=False, features=True)
    near = fine.read(batch)
    seen = (square if near is None else near)[0].cpu()
    filters = filter_slice(seen)
    step = seen.shape[-1] // filters[0].shape[-1]
    return _Square(
        cut.group,
        (found.features[0].float().cpu(), *filters),
        found.mask_logits[0].cpu(),
        found.existence[0].cpu(),
        cut.labels[step // 2 :: step, step // 2 :: step],
    )


def _try(text: str, examples: Sequence[Example]) -> Lesson:
    """Compare the text alone with fits to a part of the slices, on the others.

    Without the target in any of them there is nothing to learn it from.
    """
    nowhere, nothing = torch.tensor(-1.0), torch.zeros(0)
    alone, found, left_out = [], [], []
    for train, test in _folds(examples):
        if not any((one.truth & one.known).any() for one in train):
            continue
        head = fit_head(train, _strength(train), pixels=TRIED)
        for one in test:
            alone.append(apply_head(nothing, one) if one.exists else nowhere)
            found.append(apply_head(head, one))
            left_out.append(one)
    before = dice(alone, left_out)
    return Lesson(text, before, dice(found, left_out) if found else before)


def _strength(examples: Sequence[Example]) -> float:
    """Return the strength of the regularisation: the more slices, the weaker."""
    return STRENGTH / len({one.group for one in examples})


def _folds(
    examples: Sequence[Example],
) -> Iterator[tuple[list[Example], list[Example]]]:
    """Divide the slices, or the blocks of a single one, into some to fit and others."""
    groups = sorted({one.group for one in examples})
    if len(groups) > 1:
        count = min(MOST_FOLDS, len(groups))
        for fold in range(count):
            out = groups[fold::count]
            yield (
                [one for one in examples if one.group not in out],
                [one for one in examples if one.group in out],
            )
        return
    height, width = examples[0].known.shape
    rows = torch.arange(height)[:, None] * BLOCKS // height
    turns = (rows + 2 * (torch.arange(width) * BLOCKS // width)) % MOST_FOLDS
    for fold in range(MOST_FOLDS):
        inside = turns == fold
        yield (
            [one._replace(known=one.known & ~inside) for one in examples],
            [one._replace(known=one.known & inside) for one in examples],
        )


def _gate(head: Tensor, examples: Sequence[Example]) -> Tensor:
    """Return what to add to `presence` so that it tells empty slices from others."""
    there = torch.tensor([bool((one.truth & one.known).any()) for one in examples])
    scores = torch.stack([presence(apply_head(head, one)) for one in examples])
    if there.all():
        return -(EMPTY * scores.min()).clamp(min=0)
    if not there.any() or scores[~there].max() < 0:
        return scores.new_zeros(())
    lowest, highest = scores[there].min(), scores[~there].max()
    return -(lowest + highest) / 2 if lowest > highest else scores.new_zeros(())
