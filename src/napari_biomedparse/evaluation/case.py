"""One case from its files to its scores, and the slice that shows its worst errors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.errors import OptionError, PromptError, VolumeError
from napari_biomedparse.evaluation.metrics import Labels, match_rows
from napari_biomedparse.evaluation.scores import (
    CaseScore,
    ClassLine,
    score_instances,
    score_semantic,
)
from napari_biomedparse.io import open_file, open_labels, open_volume
from napari_biomedparse.io.durable import atomic_write
from napari_biomedparse.io.files import read_labels
from napari_biomedparse.io.inputs import identify
from napari_biomedparse.runs.manifest import MANIFEST
from napari_biomedparse.runs.run import segment_to_folder
from napari_biomedparse.slicing.geometry import choose_axis
from napari_biomedparse.slicing.intensity import choose_intensity
from napari_biomedparse.slicing.read import grey_slice

if TYPE_CHECKING:
    from napari_biomedparse.io.contents import LabelVolume
    from napari_biomedparse.io.inputs import Pair
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.runs.blocks import Progress
    from napari_biomedparse.runs.run import FolderOptions

logger = logging.getLogger(__name__)

_LARGEST_PICTURE, _MOST_NAMED = 768, 5
MIB = 2**20
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    The slices of `options` are the ones scored, and its `instances` decides whether
    objects are; `tolerance` is in the unit of the images' spacing, and None for twice
    the smallest side of a voxel of each. `prompts` replace those of each file; `model`
    is the network's identity, or empty for predictions.
    """

    tolerance: float | None = None
    prompts: PromptSet | None = None
    options: SegmentOptions = field(default_factory=SegmentOptions)
    model: str = ""


@dataclass(frozen=True)
class Overlay:
    """Slice `index` with its labels, small enough to be drawn.

    Arrays are [Y, X], an image in color [Y, X, 3]; `aspect` is the height of a pixel
    over its width.
    """

    image: npt.NDArray[np.uint8]
    truth: Labels
    labels: Labels
    index: int
    aspect: float

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file."""
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def read(cls, path: Path) -> Overlay:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as kept:
            return cls(**{key: kept[key][()] for key in kept})


_Found = tuple[Labels, npt.NDArray[np.bool_] | None, int, dict[str, float]]
"""Labels or instances; predicted existence, if known; slicing axis; time and memory."""


class Case:
    """A case whose files are open, but not read.

    Raises an error if a file is missing, damaged or does not fit the others.
    """

    def __init__(self, pair: Pair, scoring: Scoring) -> None:
        if pair.missing:
            raise VolumeError(
                f"{pair.image} has no {pair.missing}: there is no file named "
                f"{pair.name}."
            )
        self.pair, self.scoring = pair, scoring
        self.volume = open_volume(pair.image, axes=scoring.options.axes)
        sides = self.volume.spacing[1 if self.volume.flat else 0 : 3]
        given_tolerance = scoring.tolerance
        self.tolerance = 2 * min(sides) if given_tolerance is None else given_tolerance
        self.matches: list[dict[str, Any]] = []
        self.truth = self._open(pair.truth)
        self.prompts = self._find_prompts()
        given = pair.prediction
        self.prediction = None if given is None else self._open(given)

    @property
    def key(self) -> str:
        """Checksum of everything that the scores depend on."""
        prompts = self.prompts
        parts = {
            "image": identify(self.volume),
            "truth": identify(self.truth.volume),
            "prediction": self.prediction and identify(self.prediction.volume),
            "prompts": prompts and [prompts.ids, prompts.texts, prompts.instance],
            "options": asdict(self.scoring.options),
            "tolerance": self.tolerance,
            "model": self.scoring.model,
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def scores_instances(self) -> bool:
        """Whether objects are scored instead of classes."""
        chosen = self.scoring.options.instances
        if chosen is None:
            return self.prompts is not None and self.prompts.instance
        return chosen

    def score(
        self,
        folder: Path,
        network: Network | None,
        how: FolderOptions,
        on_progress: Progress | None = None,
    ) -> tuple[CaseScore, Overlay]:
        """Predict, unless a prediction is given, and compare with the truth.

        A network runs in `folder`, as `segment_to_folder` does.
        """
        if self.prediction is not None:
            found: _Found = self._read(self.prediction), None, self._axis(), {}
        elif network is not None and self.prompts is not None:
            found = self._segment(folder, network, self.prompts, how, on_progress)
        else:
            raise OptionError("Give predictions, or a model and prompts.")
        labels, existence, axis, costs = found
        scored = slice(*self.scoring.options.slices or (None,))
        where = (slice(None),) * axis + (scored,)
        truth, labels = self._read(self.truth)[where], labels[where]
        existence = None if existence is None else existence[:, scored]
        if self.scores_instances:
            self.matches = match_rows(truth, labels)
            lines = score_instances(
                truth, labels, self.prompts, existence=existence, axis=axis
            )
        else:
            lines = self._score_classes(truth, labels, existence, axis)
        score = CaseScore(
            self.pair.name,
            lines,
            **costs,
            slices=truth.shape[axis],
            tolerance=self.tolerance,
            unit=self.volume.units[1],
        )
        return score, self._overlay(truth, labels, axis)

    def _score_classes(
        self,
        truth: Labels,
        labels: Labels,
        existence: npt.NDArray[np.bool_] | None,
        axis: int,
    ) -> tuple[ClassLine, ...]:
        texts = {p.id: p.text for p in self.prompts.prompts} if self.prompts else {}
        if texts and (others := set(np.unique(truth).tolist()) - {0, *texts}):
            logger.warning(
                "%s has %d labels without a prompt (%s); they are not scored. If each "
                "is an object, score objects (instances).",
                self.pair.truth,
                len(others),
                ", ".join(map(str, sorted(others)[:_MOST_NAMED])),
            )
        return score_semantic(
            truth,
            labels,
            texts,
            spacing=self.volume.spacing[:3],
            tolerance=self.tolerance,
            existence=existence,
            axis=axis,
        )

    def _segment(
        self,
        folder: Path,
        network: Network,
        prompts: PromptSet,
        how: FolderOptions,
        on_progress: Progress | None,
    ) -> _Found:
        begun_before = (folder / MANIFEST).exists()
        start = time.monotonic()
        with PeakMemory() as peak:
            run = segment_to_folder(
                self.volume,
                prompts,
                folder,
                network,
                self.scoring.options,
                how,
                on_progress=on_progress,
            )
            stored = run.instances if self.scores_instances else run.labels
            labels: Labels = np.asarray(stored)
        costs = {"host_mib": peak.host_mib, "device_mib": peak.device_mib}
        if not begun_before:
            costs["seconds"] = time.monotonic() - start
        there = run.existence >= self.scoring.options.existence_threshold
        known = None if run.p_values is not None else there  # of v1, from its labels
        return labels, known, run.manifest.output["axis"], costs

    def _axis(self) -> int:
        """Return the slicing axis where there is no run."""
        axis = self.scoring.options.axis
        if isinstance(axis, str):
            return self.volume.axes.index(axis)
        return choose_axis(self.volume.grid) if axis is None else axis

    def _find_prompts(self) -> PromptSet | None:
        if self.scoring.prompts is not None:
            return self.scoring.prompts
        if self.pair.prompt:
            return parse_prompts([self.pair.prompt])
        stored = open_file(self.pair.image).prompts
        if stored is None and self.truth.texts:
            stored = parse_prompts({str(k): v for k, v in self.truth.texts.items()})
        if stored is None and self.pair.prediction is None:
            raise PromptError(f"{self.pair.image} contains no prompts; give some (-p).")
        return stored

    def _open(self, path: Path) -> LabelVolume:
        labels = open_labels(path)
        if labels.volume.shape != self.volume.grid:
            raise VolumeError(
                f"{path} has the shape {labels.volume.shape}, but the image "
                f"{self.pair.image} has {self.volume.grid}; they must be the same."
            )
        return labels

    def _read(self, stored: LabelVolume) -> Labels:
        """Read labels; a mask, of 0 and 255 or with a prompt, has the label of that."""
        labels, prompts = read_labels(stored), self.prompts
        if prompts is None or len(prompts) > 1 or self.scores_instances:
            return labels
        if self.pair.prompt or {255} <= set(np.unique(labels).tolist()) <= {0, 255}:
            return np.where(labels > 0, np.uint16(prompts.ids[0]), np.uint16(0))
        return labels

    def _overlay(self, truth: Labels, labels: Labels, axis: int) -> Overlay:
        """Take the slice with the most wrong voxels."""
        wrong = truth != labels
        if self.scores_instances:  # their numbers need not agree
            wrong = (truth > 0) != (labels > 0)
        others = tuple(i for i in range(3) if i != axis)
        at = int(wrong.sum(axis=others).argmax())
        options, volume = self.scoring.options, self.volume
        first = options.slices[0] if options.slices else 0
        intensity = choose_intensity(volume.data, options.modality)
        grey = grey_slice(volume, axis, first + at, intensity)
        step = -(-max(grey.shape[:2]) // _LARGEST_PICTURE)
        small = (slice(None, None, step),) * 2
        down, across = (volume.spacing[i] for i in others)
        return Overlay(
            grey[small],
            np.take(truth, at, axis)[small],
            np.take(labels, at, axis)[small],
            first + at,
            down / across,
        )


class PeakMemory:
    """Measures peak memory in a ``with`` block, in MiB.

    `host_mib` is resident memory of this process. Where the system cannot start a new
    measurement (not Linux), it is the peak since the process began; NaN on Windows.
    `device_mib` is memory allocated on the current CUDA device; NaN without one.
    """

    host_mib = math.nan
    device_mib = math.nan

    def __enter__(self) -> PeakMemory:
        """Start a new measurement."""
        with contextlib.suppress(OSError):
            _RESET.write_text("5")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *error: object) -> None:
        """Read the peaks."""
        self.host_mib = _host_peak()
        if torch.cuda.is_available():
            self.device_mib = torch.cuda.max_memory_allocated() / MIB


def _host_peak() -> float:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)
