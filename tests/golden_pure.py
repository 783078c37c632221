"""Golden cases that need no network: geometry, resize, merging, instances, metrics.

The format is that of ``shared/reference/README.md``, with any number of cases.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from golden_result import Result, check

from napari_biomedparse.evaluation.metrics import (
    evaluate_instances,
    evaluate_semantic,
)
from napari_biomedparse.evaluation.scores import mean
from napari_biomedparse.labels.instances import label_components, split_instances
from napari_biomedparse.labels.resolve import merge, suppress, upsample
from napari_biomedparse.slicing.geometry import plan_slices

Arrays = dict[str, npt.NDArray[Any]]
Scores = dict[str, float]
DEFAULT_FORMULA = "float32(imgs[28:30])*1.37-40.25 cropped [:,100:400,150:350]"
EXACT = 0.0
FLOAT_ROUNDING = 1e-6


def run(folder: Path) -> Iterator[Result]:
    """Yield the outcome of every pure golden case found in `folder`."""
    for names, runner in RUNNERS.items():
        if all((folder / name).is_file() for name in names):
            yield from runner(folder)


def run_axis(folder: Path) -> Iterator[Result]:
    """Compare slicing axis, padding and padded size."""
    for case in json.loads((folder / "pure_axis.json").read_text()):
        shape = tuple(case["shape"])
        wrong = _geometry_errors(case, shape, 512)
        yield check(f"pure_axis {shape}", wrong, EXACT, "axis, padding, size")


def run_process(folder: Path) -> Iterator[Result]:
    """Compare network input and restored labels."""
    arrays = _load(folder / "pure_process.npz")
    described = folder / "pure_process.json"
    cases = {}
    if described.is_file():
        cases = {c["case"]: c for c in json.loads(described.read_text())}
    for i in _numbers(arrays, r"in(\d+)_volume"):
        name = f"pure_process in{i}"
        volume, expected = arrays[f"in{i}_volume"], arrays[f"in{i}_int32"]
        size = expected.shape[-1]
        geometry = plan_slices(volume.shape, size)
        if i in cases:
            wrong = _geometry_errors(cases[i], volume.shape, size)
            yield check(name, wrong, EXACT, "axis, padding, size")
        planes = np.moveaxis(volume, geometry.axis, 0)
        prepared = geometry.prepare(planes).numpy()
        yield check(name, _largest(prepared, expected), EXACT, "input, grey levels")
        restored = geometry.restore(arrays[f"in{i}_labels"])
        native = np.moveaxis(restored, 0, geometry.axis)
        differing = _differing(native, arrays[f"in{i}_restored"])
        yield check(name, differing, EXACT, "restored labels, share that differs")


def run_float_input(folder: Path) -> Iterator[Result]:
    """Compare the network input made of the float volume of ``e2e_float``."""
    volume = float_volume(folder)
    if volume is None:
        return
    expected = _load(folder / "float_input_check.npz")
    prepared = plan_slices(volume.shape, 512).prepare(volume).numpy()
    step = 512 // expected["int_sub"].shape[-1]
    error = _largest(prepared[:, ::step, ::step], expected["int_sub"])
    yield check("float_input_check", error, EXACT, "input, grey levels")
    ends = np.array([prepared.min(), prepared.max()])
    error = _largest(ends, expected["minmax"])
    yield check("float_input_check", error, EXACT, "lowest and highest value")


def float_volume(folder: Path) -> npt.NDArray[np.float32] | None:
    """Make the volume of ``e2e_float``, or return None without the CT it is made of.

    The recipe counts slices from the whole CT; ``ct_subvolume`` begins with slice 28.
    """
    if not (folder / "ct_subvolume.npz").is_file():
        return None
    formula = DEFAULT_FORMULA
    if (folder / "e2e_float.npz").is_file():
        formula = str(_load(folder / "e2e_float.npz").get("formula", formula))
    number = r"(-?[\d.]+)"
    match = re.fullmatch(
        rf"float32\(imgs\[{number}:{number}\]\)\*{number}([+-][\d.]+) "
        rf"cropped \[:, *{number}:{number}, *{number}:{number}\]",
        formula,
    )
    if match is None:
        raise ValueError(f"The recipe of e2e_float is not understood: {formula}")
    gain, offset = float(match[3]), float(match[4])
    start, stop, top, bottom, left, right = (int(match[i]) for i in (1, 2, 5, 6, 7, 8))
    slices = _load(folder / "ct_subvolume.npz")["imgs"][start - 28 : stop - 28]
    volume: npt.NDArray[np.float32] = slices.astype(np.float32) * gain + offset
    return volume[:, top:bottom, left:right]


def run_nms_merge(folder: Path) -> Iterator[Result]:
    """Compare gating, duplicate suppression, merging and upsampling."""
    arrays = _load(folder / "pure_nms_merge.npz")
    for i in _numbers(arrays, r"c(\d+)_logits"):
        case = {k.split("_", 1)[1]: v for k, v in arrays.items() if _is_of(k, i)}
        yield from _nms_case(f"pure_nms_merge c{i}", case)
    for key in arrays:
        if key.endswith("_probs"):
            stem = key.removesuffix("_probs")
            merged = _merge(arrays[key], arrays[f"{stem}_ids"])
            error = _differing(merged, arrays[f"{stem}_merged"])
            yield check(f"pure_nms_merge {stem}", error, EXACT, "merged labels")
        elif key.endswith("up_in"):
            expected = arrays[key.removesuffix("in") + "out"]
            up = upsample(torch.from_numpy(arrays[key]), expected.shape[-2:]).numpy()
            error = _largest(up, expected)
            yield check(f"pure_nms_merge {key}", error, 1e-5, "upsampled logits")


def _nms_case(name: str, case: Arrays) -> Iterator[Result]:
    probabilities = torch.from_numpy(case["logits"]).transpose(0, 1).sigmoid()
    scores = torch.from_numpy(case["existence"]).T.sigmoid()
    gate = scores > 0.5
    keeps = [gate] if gate.shape[1] == 1 else _suppress_both_ways(probabilities, scores)
    if "post" in case:
        error = _gated_error(probabilities, keeps, case["post"])
        yield check(name, error, FLOAT_ROUNDING, "gated probabilities")
    if "post_nonms" in case:
        error = _gated_error(probabilities, [gate], case["post_nonms"])
        yield check(name, error, FLOAT_ROUNDING, "probabilities gated one by one")
    for key, expected in case.items():
        if thresholds := re.fullmatch(r"nms_iou([\d.]+)_s([\d.]+)_keep", key):
            overlap, score = (float(t) for t in thresholds.groups())
            keeps = _suppress_both_ways(probabilities, scores, score, overlap)
            error = _keep_errors(keeps, torch.from_numpy(expected.T))
            yield check(name, error, EXACT, f"kept prompts at {overlap}, {score}")
    if "merged" in case and "post" in case:
        merged = _merge(case["post"], case["ids"])
        yield check(name, _differing(merged, case["merged"]), EXACT, "merged labels")


def run_instances(folder: Path) -> Iterator[Result]:
    """Compare instances, up to their numbers."""
    arrays = _load(folder / "pure_instances.npz")
    for i in _numbers(arrays, r"c(\d+)_mask"):
        name, mask = f"pure_instances c{i}", arrays[f"c{i}_mask"]
        if f"c{i}_instances" in arrays:
            split = split_instances(mask, arrays[f"c{i}_edge"])
            error = _partition_error(split, arrays[f"c{i}_instances"])
            yield check(name, error, EXACT, "instances, share that differs")
        if f"c{i}_components" in arrays:
            error = _partition_error(label_components(mask), arrays[f"c{i}_components"])
            yield check(name, error, EXACT, "components, share that differs")


def run_metrics(folder: Path) -> Iterator[Result]:
    """Compare semantic and instance scores, also rounded to four digits."""
    arrays = _load(folder / "pure_metrics.npz")
    for case in json.loads((folder / "pure_metrics.json").read_text()):
        name = case["case"]
        truth, labels = arrays[f"{name}_gt"], arrays[f"{name}_seg"]
        if case["kind"] == "semantic":
            found, expected = _semantic_scores(case, truth, labels)
        else:
            found, expected = _instance_scores(case, truth, labels)
        error = max(_score_error(found[key], expected[key]) for key in expected)
        yield check(f"pure_metrics {name}", error, 1e-6, f"{len(expected)} scores")
        rounded = case.get("evaluate", {})
        wrong = sum(
            _score_error(round(found.get(key, math.nan), 4), rounded[key]) > 0
            for key in rounded
        )
        yield check(f"pure_metrics {name}", wrong, EXACT, "wrong when rounded")


def _semantic_scores(
    case: dict[str, Any], truth: npt.NDArray[Any], labels: npt.NDArray[Any]
) -> tuple[Scores, Scores]:
    options = {"spacing": tuple(case["spacing"]), "ids": case["ids"]}
    score = evaluate_semantic(truth, labels, **options)
    near = evaluate_semantic(truth, labels, **options, tolerance=1.0)
    found = {
        "DSC": mean(values.dsc for values in score.values()),
        "NSD": mean(values.nsd for values in score.values()),
        "F1": math.nan,
        "DSC_TP": math.nan,
    }
    for label, values in score.items():
        found[f"{label} dsc"], found[f"{label} nsd"] = values.dsc, values.nsd
        found[f"{label} nsd_tol1"] = near[label].nsd
    expected: Scores = {key: case[key] for key in ("DSC", "NSD") if key in case}
    for label, values in case.get("per_class", {}).items():
        expected |= {f"{label} {key}": value for key, value in values.items()}
    missing = dict.fromkeys(expected.keys() - found.keys(), math.nan)
    return found | missing, expected


def _instance_scores(
    case: dict[str, Any], truth: npt.NDArray[Any], labels: npt.NDArray[Any]
) -> tuple[Scores, Scores]:
    score = evaluate_instances(truth, labels)
    found = {
        "DSC": math.nan,
        "F1": score.f1,
        "DSC_TP": score.dsc_matched,
        "tp": score.true_positives,
        "fp": score.false_positives,
        "fn": score.false_negatives,
    }
    return found, {key: case[key] for key in ("tp", "fp", "fn") if key in case}


def _score_error(found: float, expected: float | None) -> float:
    """Return the difference; a score that is null in the file has to be NaN."""
    if expected is None or math.isnan(expected):
        return 0.0 if math.isnan(found) else math.inf
    return math.inf if math.isnan(found) else abs(found - expected)


RUNNERS = {
    ("pure_axis.json",): run_axis,
    ("pure_process.npz",): run_process,
    ("float_input_check.npz", "ct_subvolume.npz"): run_float_input,
    ("pure_nms_merge.npz",): run_nms_merge,
    ("pure_instances.npz",): run_instances,
    ("pure_metrics.npz", "pure_metrics.json"): run_metrics,
}


def _load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _numbers(arrays: Arrays, pattern: str) -> list[int]:
    """Return the case numbers that occur in the keys, ascending."""
    found = (re.fullmatch(pattern, key) for key in arrays)
    return sorted(int(match[1]) for match in found if match)


def _is_of(key: str, case: int) -> bool:
    return key.startswith(f"c{case}_")


def _geometry_errors(case: dict[str, Any], shape: tuple[int, ...], size: int) -> float:
    """Count what differs of axis, padding and padded size."""
    geometry = plan_slices(shape, size)
    pad = [[0, 0], *(list(pair) for pair in geometry.pad)]
    return float(
        (geometry.axis != case["axis"])
        + (pad != case["pad_width"])
        + (geometry.padded_shape[0] != case["padded_size"])
    )


def _largest(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if found.size == 0:
        return 0.0
    return float(np.abs(found.astype(np.float64) - expected).max())


def _differing(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float((found != expected).mean()) if found.shape == expected.shape else 1.0


def _merge(
    probabilities: npt.NDArray[Any], ids: npt.NDArray[Any]
) -> npt.NDArray[np.int32]:
    """Merge probabilities [P, D, H, W] as the files hold them."""
    slices = torch.from_numpy(probabilities).transpose(0, 1)
    return merge(slices, ids.tolist()).numpy()


def _suppress_both_ways(
    probabilities: torch.Tensor, scores: torch.Tensor, *thresholds: float
) -> list[torch.Tensor]:
    """Return what is kept for either order of equal scores, which is left open."""
    masks = probabilities > 0.5
    backwards = suppress(masks.flip(1), scores.flip(1), *thresholds)
    return [suppress(masks, scores, *thresholds), backwards.flip(1)]


def _keep_errors(keeps: list[torch.Tensor], expected: torch.Tensor) -> float:
    """Count wrong prompts, slice by slice for the order of ties that fits better."""
    wrong = torch.stack([(keep != expected).sum(1) for keep in keeps])
    return float(wrong.amin(0).sum())


def _gated_error(
    probabilities: torch.Tensor,
    keeps: list[torch.Tensor],
    expected: npt.NDArray[np.float32],
) -> float:
    """Return the largest error, in every slice for the order that fits better."""
    target = torch.from_numpy(expected).transpose(0, 1)
    gated = (probabilities * keep[:, :, None, None] for keep in keeps)
    errors = torch.stack([(g - target).abs().flatten(1).amax(1) for g in gated])
    return float(errors.amin(0).max())


def _partition_error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the share of voxels that no renumbering of `found` makes equal."""
    if found.shape != expected.shape:
        return 1.0
    pairs = np.stack((found.ravel(), expected.ravel()))
    unique = np.unique(pairs, axis=1)
    first, second = (np.bincount(side)[side] for side in unique)
    clash = unique[:, (first > 1) | (second > 1) | ((unique == 0).sum(0) == 1)]
    wrong = (pairs[:, :, None] == clash[:, None]).all(0).any(1)
    return float(wrong.mean())
