"""A large network teaches a light one on unlabeled volumes.

Hinton et al., "Distilling the knowledge in a neural network", 2015: the probabilities
of the teacher's masks, edges and existence are the truth that the student learns. They
are computed once, and stored slice by slice, so that an interruption costs one slice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import CheckpointError, VolumeError
from napari_biomedparse.io.durable import atomic_write, check_folder, writing
from napari_biomedparse.io.files import open_volume
from napari_biomedparse.io.inputs import STATES, identify
from napari_biomedparse.labels.resolve import upsample
from napari_biomedparse.networks.blocks.maskformer import MaskFormer
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.networks.config import ARCHITECTURES
from napari_biomedparse.networks.network import SlicePrediction
from napari_biomedparse.networks.start import start_network
from napari_biomedparse.networks.weights import load_model, model_identity
from napari_biomedparse.pipeline.loop import begin_slices, plan_tokens, predict_slices
from napari_biomedparse.pipeline.plan import RunPlan, plan_run, spans
from napari_biomedparse.pipeline.segment import make_engine
from napari_biomedparse.slicing.read import slice_batches
from napari_biomedparse.training.augment import Variation, vary
from napari_biomedparse.training.finetune import train, variation_of
from napari_biomedparse.training.folder import BEST, open_training, save_training
from napari_biomedparse.training.keeper import Keeper
from napari_biomedparse.training.losses import Targets
from napari_biomedparse.training.options import DistillOptions, FinetuneOptions
from napari_biomedparse.training.slices import Batch, padded
from napari_biomedparse.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.engine.engine import Engine, Tokens
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.pipeline.segment import Model
    from napari_biomedparse.slicing.read import SliceBatch
    from napari_biomedparse.training.progress import Progress

TARGETS = "targets"
"""Folder of what the teacher said, in that of the training."""
OUTSIDE = -20.0
"""Logit of what is beyond a slice."""
TIMED = 3
"""Slices that teacher and student are timed on."""


@dataclass(frozen=True)
class Distilled:
    """Result of `distill`.

    Attributes
    ----------
    checkpoint : Path
        The best weights; `load_model` takes the path.
    step : int
        Number of training steps.
    agreement : mapping of str to float
        Dice coefficient, 0 to 1, of the labels of student and teacher, by prompt, on
        slices that were held out.
    speed : float
        How many times as fast as the teacher the student is, on this computer.
    held_out : str
        What was held out from training.
    """

    checkpoint: Path
    step: int
    agreement: Mapping[str, float]
    speed: float
    held_out: str


class Sample(NamedTuple):
    """A slice of a volume, by their numbers."""

    volume: int
    at: int


class TeacherTargets:
    """What a teacher found in slices, float16 logits in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, sample: Sample) -> bool:
        """Return whether a slice is done."""
        return self._path(sample).is_file()

    def add(self, sample: Sample, found: SlicePrediction) -> None:
        """Keep what was found in a slice."""
        masks, edges, existence = (x[0].float().cpu().numpy() for x in found)
        path = self._path(sample)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial, partial.open("xb") as file:
            halves = (x.astype(np.float16) for x in (masks, edges))
            np.savez(file, *halves, existence)

    def load(self, sample: Sample) -> SlicePrediction:
        """Return what was found in a slice, float32."""
        with np.load(self._path(sample)) as kept:
            arrays = [kept[f"arr_{i}"].astype(np.float32) for i in range(3)]
        return SlicePrediction(*(torch.from_numpy(x)[None] for x in arrays))

    def _path(self, sample: Sample) -> Path:
        return self._folder / str(sample.volume) / f"{sample.at}.npz"


class DistilledBatches:
    """Batches by their number since the start, for `ChunkedData`.

    `plans` are those of the student. Without `variation`, slices and their order are
    unchanged.
    """

    def __init__(
        self,
        plans: Sequence[RunPlan],
        samples: Sequence[Sample],
        targets: TeacherTargets,
        options: FinetuneOptions,
        variation: Variation | None,
    ) -> None:
        self._plans, self._samples, self._targets = plans, list(samples), targets
        self._options, self._variation = options, variation

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._samples) // self._options.batch_size)

    def __getitem__(self, number: int) -> Batch:
        """Make a batch."""
        epoch, place = divmod(number, len(self))
        epoch = 0 if self._variation is None else epoch
        order = np.arange(len(self._samples))
        if self._variation is not None:
            rng = np.random.default_rng([self._options.seed, 2, epoch])
            order = rng.permutation(order)
        rng = np.random.default_rng([self._options.seed, 3, epoch, place])
        size, texts = self._options.batch_size, self._plans[0].prompts.texts
        chosen = np.arange(len(texts))
        if self._variation is not None:
            chosen = np.sort(rng.permutation(chosen)[: self._options.prompts])
        rows = [
            self._one(rng, self._samples[i], chosen)
            for i in order[place * size : (place + 1) * size]
        ]
        pictures, masks, edges, exists = map(torch.stack, zip(*rows, strict=True))
        tokens = [tokenize(texts[i]) for i in chosen]
        ids, real = padded([one.ids[: one.length] for one in tokens])
        truth = Targets(masks, edges, exists, torch.ones_like(exists))
        return Batch(pictures, ids, real, truth, number)

    def _one(
        self, rng: np.random.Generator, sample: Sample, chosen: NDArray[np.intp]
    ) -> tuple[Tensor, ...]:
        """Return a slice [3, S, S] and its truth, in the same way varied."""
        plan, size = self._plans[sample.volume], self._plans[0].tiles.size
        (batch,) = _batches(plan, sample.at, sample.at + 1)
        found = self._targets.load(sample)
        corners = plan.tiles.corners
        varied = self._variation is not None
        top, left = corners[int(rng.integers(len(corners))) if varied else 0]
        window = (..., slice(top, top + size), slice(left, left + size))
        picture = batch.slices[0].float()[window]
        # Each pixel's place tells where it came from, whatever is done to it.
        places = np.arange(1, size * size + 1, dtype=np.int64).reshape(size, size)
        if self._variation is not None:
            swaps = self._variation.swap and not plan.volume.is_colour
            changes = replace(self._variation, swap=swaps)
            picture, places = vary(rng, picture, places, changes)
        source = torch.from_numpy(places).flatten()
        truth = []
        for logits in (found.mask_logits[:, chosen], found.edge_logits[:, chosen]):
            whole = upsample(logits, plan.geometry.working_shape)[0][window]
            seen = F.pad(whole.flatten(1), (1, 0), value=OUTSIDE)
            truth.append(seen[:, source].view_as(whole).sigmoid())
        return picture, *truth, found.existence[0, chosen].sigmoid()


def distill(
    data: Sequence[VolumeLike | str | os.PathLike[str]],
    prompts: PromptsLike,
    output: str | os.PathLike[str],
    student: str | os.PathLike[str] = "v2-lite",
    *,
    teacher: Model | None = None,
    options: FinetuneOptions | None = None,
    reading: SegmentOptions | None = None,
    device: str = "auto",
    on_target: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Distilled:
    """Have a large network teach a light one on volumes without labels.

    After an interruption, the same call goes on where it was.

    Parameters
    ----------
    data : sequence of paths, arrays or Volume
        The volumes.
    prompts
        What the student shall find; see `parse_prompts`.
    output : path
        Folder for ``targets``, the weights and the log; see `finetune`.
    student : str or path
        One of `ARCHITECTURES`, which takes over from the teacher what fits, or weights
        as for `load_model`.
    teacher : Network, Engine, str or path
        By default as for `segment`.
    options : FinetuneOptions, optional
        By default `DistillOptions`.
    reading : SegmentOptions, optional
        How volumes are read, such as the axis, the modality and the tiles.
    on_target : callable, optional
        Called after each slice of the teacher with how many are done, and of how many.
    on_progress, stop : callable, optional
        As for `finetune`; `stop` also ends the teacher's part.

    Raises
    ------
    VolumeError, PromptError, OptionError
        If the volumes, the prompts or the options cannot be used.
    CheckpointError, DeviceError
        If a network cannot be loaded or trained.
    OutputError
        If the folder holds another training, or cannot be written.
    """
    options, folder = options or DistillOptions(), Path(output)
    reading = reading or SegmentOptions()
    check_folder(folder)
    engine = make_engine(teacher, device, reading)
    begun, knows_text = _student(student, engine.model, options.seed)
    if not knows_text:  # what is drawn at random has to learn
        learns = tuple(part for part in options.freeze if part != "text")
        options = replace(options, freeze=learns)
    wanted = parse_prompts(prompts)
    volumes = [
        open_volume(one, axes=reading.axes)
        if isinstance(one, str | os.PathLike)
        else one
        for one in data
    ]
    known, plans = (
        [plan_run(one, wanted, reading, config=config) for one in volumes]
        for config in (engine.model.config, begun.config)
    )
    learned, held_out, told = _split(plans, options)
    facts = {
        "name": f"distilled from {model_identity(engine.model)}",
        "base": model_identity(begun),
        "teacher": model_identity(engine.model),
        "data": json.dumps([_identity(plan) for plan in known]),
        "intensity": json.dumps([p.intensity.describe() for p in plans]),
        "reading": json.dumps(asdict(reading)),
        "prompts": json.dumps(wanted.texts),
        "held_out": told,
        "options": json.dumps(asdict(options)),
        "napari_biomedparse": __version__,
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        finished = open_training(folder, facts)
        targets = TeacherTargets(folder / TARGETS)
        keeper = Keeper(folder, facts, on_progress, stop)
        if finished is None:
            _ask(engine, known, targets, on_target, stop)
            if not (stop and stop()):
                first, second = (
                    DistilledBatches(plans, samples, targets, options, changes)
                    for samples, changes in (
                        (learned, variation_of(options)),
                        (held_out, None),
                    )
                )
                train(begun, first, second, options, engine.device, 1, keeper)
            finished = {"step": keeper.step, "best": keeper.best}
            finished["agreement"], finished["speed"] = {}, float("nan")
            if (folder / BEST).is_file():
                other = make_engine(folder / BEST, str(engine.device), reading)
                finished["agreement"] = _agreement(
                    other, plans, known, targets, held_out or learned
                )
                finished["speed"] = _speed(engine, known[0]) / _speed(other, plans[0])
            if not keeper.stopped and keeper.step:
                save_training(folder, facts, finished)
    return Distilled(
        folder / BEST,
        int(finished["step"]),
        finished["agreement"],
        float(finished["speed"]),
        told,
    )


def _student(
    student: str | os.PathLike[str], teacher: Network, seed: int
) -> tuple[MaskFormer, bool]:
    """Make or load a student; return whether its text encoder is pretrained, too."""
    if student in ARCHITECTURES:
        return start_network(str(student), base=teacher, seed=seed)
    model = load_model(student)
    if not isinstance(model, MaskFormer) or model.config.slices_alone:
        raise CheckpointError(
            f"{student} cannot be taught. Choose a network of v2 or BoltzFormer, or "
            f"one of {', '.join(ARCHITECTURES)}."
        )
    return model, True


def _identity(plan: RunPlan) -> dict[str, Any]:
    """Identify a volume by its voxels: path and time of its file may change."""
    found = identify(plan.volume, plan.intensity.sampled)
    return {k: v for k, v in found.items() if k not in ("path", *STATES)}


def _split(
    plans: Sequence[RunPlan], options: FinetuneOptions
) -> tuple[list[Sample], list[Sample], str]:
    """Hold out a block of slices of each volume; its neighbours are not used at all."""
    learned, held_out, told = list[Sample](), list[Sample](), []
    rng = np.random.default_rng([options.seed, 1])
    for number, plan in enumerate(plans):
        every = range(plan.start, plan.stop)
        length = round(options.validation * len(every))
        first = plan.start + int(rng.integers(len(every) - length + 1))
        out = range(first, first + length)
        held_out += [Sample(number, at) for at in out]
        near = range(first - 1, first + length + 1) if length else out
        learned += [Sample(number, at) for at in every if at not in near]
        if length:
            told.append(f"slices {out[0]} to {out[-1]} of {plan.volume.name}")
    if not learned:
        raise VolumeError(
            "No slices are left to learn from; give more volumes, or hold out less."
        )
    return learned, held_out, ", ".join(told) or "nothing"


def _ask(
    engine: Engine,
    plans: Sequence[RunPlan],
    targets: TeacherTargets,
    on_target: Callable[[int, int], None] | None,
    stop: Callable[[], bool] | None,
) -> None:
    """Have the teacher find everything in the slices that are not done yet."""
    every = [
        Sample(number, at)
        for number, plan in enumerate(plans)
        for at in range(plan.start, plan.stop)
    ]
    left = {sample for sample in every if not targets.has(sample)}
    for number, plan in enumerate(plans):
        tokens = plan_tokens(plan, engine)
        mine = [sample.at for sample in left if sample.volume == number]
        for start, end in spans(sorted(mine)):
            for batch in _batches(plan, start, end):
                if stop and stop():
                    return
                found = _predict(engine, plan, tokens, batch.slices)
                sample = Sample(number, batch.start)
                targets.add(sample, found)
                left.discard(sample)
                if on_target is not None:
                    on_target(len(every) - len(left), len(every))


def _agreement(
    student: Engine,
    plans: Sequence[RunPlan],
    known: Sequence[RunPlan],
    targets: TeacherTargets,
    samples: Sequence[Sample],
) -> dict[str, float]:
    """Return the Dice coefficient of both networks' labels, by prompt."""
    texts = plans[0].prompts.texts
    shared, both = np.zeros((2, len(texts)), np.int64)
    for sample in samples:
        plan = replace(plans[sample.volume], instances=False)
        (batch,) = _batches(plan, sample.at, sample.at + 1)
        tokens = plan_tokens(plan, student)
        found = _predict(student, plan, tokens, batch.slices)
        other = replace(known[sample.volume], instances=False)
        pair = (plan, found), (other, targets.load(sample))
        mine, theirs = (begin_slices(own, sample.at, one)().labels for own, one in pair)
        for row, label in enumerate(plan.prompts.ids):
            shared[row] += int(((mine == label) & (theirs == label)).sum())
            both[row] += int((mine == label).sum() + (theirs == label).sum())
    scores = np.where(both > 0, 2 * shared / np.maximum(both, 1), 1.0)
    return dict(zip(texts, scores.tolist(), strict=True))


def _speed(engine: Engine, plan: RunPlan) -> float:
    """Return the seconds that a slice takes, the least of a few."""
    tokens, taken = plan_tokens(plan, engine), []
    (batch,) = _batches(plan, plan.start, plan.start + 1)
    for _ in range(TIMED):
        begun = time.perf_counter()
        found = _predict(engine, plan, tokens, batch.slices)
        found.existence.cpu()  # waits for a GPU
        taken.append(time.perf_counter() - begun)
    return min(taken)


def _predict(
    engine: Engine, plan: RunPlan, tokens: Tokens, slices: Tensor
) -> SlicePrediction:
    def predict(squares: Tensor) -> SlicePrediction:
        return engine.predict(squares, tokens, remember=False)

    return predict_slices(plan, predict, slices)


def _batches(plan: RunPlan, start: int, stop: int) -> Iterator[SliceBatch]:
    return slice_batches(plan.volume, plan.geometry, plan.intensity, start, stop, 1)
