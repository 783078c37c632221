"""Golden cases of the whole pipeline, run through the product's own loop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden_network as network
import numpy as np
import torch
from golden_result import Result
from torch import Tensor

from napari_biomedparse.data.prompts import Prompt, PromptSet
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.engine.engine import Engine, SlicePrediction
from napari_biomedparse.labels.resolve import resolve, upsample
from napari_biomedparse.pipeline.loop import run_plan
from napari_biomedparse.pipeline.plan import SegmentOptions, plan_run

LABEL_SHARE = {"binary": 1e-3, "hash": 5e-3, "const": 5e-3}
NEAR_THRESHOLD = 1e-2


class RecordingEngine(Engine):
    """An engine that keeps its predictions."""

    def __init__(self, kind: str) -> None:
        field = network.golden_field(kind)
        super().__init__(network.reference_model(), field=field, precision="float32")
        self.kept: list[SlicePrediction] = []

    def predict(self, slices: Tensor, tokens: Tensor, **how: Any) -> SlicePrediction:
        """Predict and keep what was said."""
        self.kept.append(super().predict(slices, tokens, **how))
        return self.kept[-1]


def end_to_end(folder: Path, path: Path) -> Iterator[Result]:
    """Labels, edge labels, existence and masks of one volume."""
    file = network.load(path)
    kinds = [kind for kind in network.FIELDS if f"labels_{kind}" in file]
    array = _volume(folder, file, file[f"labels_{kinds[0]}"].shape)
    # With its axes named: a thin last axis would otherwise be taken for colours.
    volume = Volume(array, ("z", "y", "x"), (1,) * 3, ("pixel",) * 3, (0,) * 3)
    ids = [int(i) for i in file["ids"]]
    texts = [str(text) for text in file["prompts"]]
    prompts = PromptSet(tuple(map(Prompt, ids, texts)))
    options = SegmentOptions(modality="none", instances=True)
    for kind in kinds:
        case = f"{path.stem} {kind}"
        engine = RecordingEngine(kind)
        plan = plan_run(volume, prompts, options, config=engine.model.config)
        axis = plan.geometry.axis
        if kind == kinds[0]:
            found = [axis, plan.geometry.padded_shape[0], *np.ravel(plan.geometry.pad)]
            expected = [int(file["axis"]), int(file["padded_size"])]
            expected += list(np.ravel(file["pad_width"][1:]))
            wrong = sum(a != b for a, b in zip(found, expected, strict=True))
            yield Result(f"{case} geometry", wrong, 0, wrong == 0, f"axis {axis}")
        done = list(run_plan(plan, engine))
        labels = np.concatenate([d.labels for d in done], axis=axis)
        edges = np.concatenate([d.edges for d in done], axis=axis)
        kept = SlicePrediction(*map(torch.cat, zip(*engine.kept, strict=True)))
        margin = _margin(kept.mask_logits, kept.existence, plan)
        yield _labels(case, kind, labels, file[f"labels_{kind}"], margin)
        if f"edge_labels_{kind}" in file:
            expected = file[f"edge_labels_{kind}"]
            name = f"{case} edge"
            margin = _margin(kept.edge_logits, kept.existence, plan)
            yield _labels(name, kind, edges, expected, margin)
        existence = kept.existence.T
        key = f"object_existence_{kind}"
        yield network.logits_result(f"{case} existence", kind, existence, file[key])
        sub = kept.mask_logits.transpose(0, 1)[..., ::8, ::8]
        yield network.logits_result(
            f"{case} pred_gmasks", kind, sub, file[f"pred_gmasks_sub_{kind}"]
        )
        keep = resolve(kept.mask_logits, kept.existence, ids, (512, 512)).keep.T.numpy()
        wrong = int((keep != file[f"keep_{kind}"]).sum())
        yield Result(f"{case} keep", wrong, 0, wrong == 0, f"of {keep.size}")


def _labels(
    case: str,
    kind: str,
    found: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    margin: np.ndarray[Any, Any],
) -> Result:
    """Share of voxels that differ; with `binary` all of them close calls."""
    differ = found != expected
    share, allowed = float(differ.mean()), LABEL_SHARE[kind]
    note = f"{int(differ.sum())} of {differ.size} voxels"
    passed = share <= allowed
    if kind == "binary" and differ.any():
        distance = margin[differ].max()
        note += f", at most {distance:.1e} from a tie"
        passed = passed and distance <= NEAR_THRESHOLD
    return Result(f"{case} labels", share, allowed, passed, note)


def _margin(logits: Tensor, existence: Tensor, plan: Any) -> np.ndarray[Any, Any]:
    """Return by how much each voxel's winner beats the second of [0.5, p_1, ...]."""
    size = plan.geometry.working_shape
    keep = resolve(logits, existence, plan.prompts.ids, size).keep
    probability = upsample(logits, size).sigmoid() * keep[:, :, None, None]
    background = torch.full_like(probability[:, :1], 0.5)
    best = torch.cat([background, probability], dim=1).topk(2, dim=1).values
    planes = plan.geometry.restore(best[:, 0] - best[:, 1])
    return np.moveaxis(planes, 0, plan.geometry.axis)


def _volume(
    folder: Path, file: dict[str, np.ndarray[Any, Any]], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Find, or make as the file describes, the volume of a case."""
    for key in ("volume", "imgs"):
        if key in file:
            return file[key]
    shared = network.subvolume(folder)
    imgs, offset = shared["imgs"], int(shared["slice_start"])
    if "formula" in file:
        pattern = (
            r"float32\(imgs\[(\d+):(\d+)\]\)\*([\d.]+)([+-][\d.]+) "
            r"cropped \[:,(\d+):(\d+),(\d+):(\d+)\]"
        )
        match = re.fullmatch(pattern, str(file["formula"]))
        if match is None:
            raise ValueError(f"formula not understood: {file['formula']}")
        a, b, gain, shift, *crop = match.groups()
        y0, y1, x0, x1 = map(int, crop)
        part = imgs[int(a) - offset : int(b) - offset, y0:y1, x0:x1]
        return part.astype(np.float32) * np.float32(gain) + np.float32(shift)
    start = int(file["slice_start"]) - offset if "slice_start" in file else 0
    return imgs[start : start + shape[0]]
