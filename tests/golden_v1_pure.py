"""Golden cases of v1 that need no network: statistics, combination, recognition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from golden_network import load
from golden_result import Result
from golden_v1 import reference_model
from numpy.typing import NDArray

from napari_biomedparse.labels.likeness import (
    combine_masks,
    drop_covered,
    mask_statistics,
    p_value,
    pairs_of,
    read_table,
)
from napari_biomedparse.networks.config import V1
from napari_biomedparse.pipeline.recognize import recognize

NUMBERS, P_VALUES, PIXELS = 1e-5, 1e-3, 1e-3
SYNTHETIC = "target_dist_synthetic.json"


def missing(name: str) -> Iterator[Result]:
    """Fail for what the product does not have yet."""
    yield Result(name, 1, 0, False, "not there yet")


def statistics(folder: Path) -> Iterator[Result]:
    """Mask statistics and p-values."""
    file = load(folder / "pure_stats.npz")
    told = json.loads((folder / "pure_stats.json").read_text())
    table = read_table(_table(folder))
    for name, entry in told.items():
        if name == "ks_one_sample":
            for one in entry:
                pairs = [[one["a"], one["b"]]] * 4
                found = p_value(np.full(4, one["x"]), pairs)
                yield _close(f"pure_stats ks {one['x']}", found, one["p"], NUMBERS)
            continue
        found = mask_statistics(file[f"{name}_img"], file[f"{name}_prob"])
        yield _close(f"pure_stats {name} numbers", found, entry["stats"], NUMBERS)
        pairs = pairs_of(table, entry["modality"], entry["target"])
        p = p_value(found, pairs)
        yield _close(f"pure_stats {name} p", p, entry["adjusted_p"], NUMBERS)


def combination(folder: Path) -> Iterator[Result]:
    """Suppression, and combination into disjoint masks."""
    file = load(folder / "pure_combine.npz")
    told = json.loads((folder / "pure_combine.json").read_text())
    for name, entry in told.items():
        if f"{name}_prob" not in file:
            found = combine_masks(np.zeros((0, 4, 4), np.float32))
            wrong = len(found[0]) + len(found[1])
            yield Result(f"pure_combine {name}", wrong, 0, wrong == 0, "nothing")
            continue
        prob = file[f"{name}_prob"]
        yield _same(f"pure_combine {name}", prob, range(len(prob)), entry["kept"], file)
        if "p_values" not in entry:
            continue
        order = drop_covered(prob, entry["p_values"])
        names = [f"t{i}" for i in order]
        wrong = names != entry["nms_order"]
        yield Result(f"pure_combine {name} order", wrong, 0, not wrong, str(names))
        if "after_nms_kept" in entry:
            kept = entry["after_nms_kept"]
            yield _same(f"pure_combine {name}_after_nms", prob, order, kept, file)


def recognition(folder: Path, path: Path) -> Iterator[Result]:
    """All targets of an image, found one by one and combined."""
    file = load(path)
    kind, model = str(file["image_type"]), reference_model()
    model.config = replace(V1, image_size=file["image"].shape[0])
    try:
        yield from _recognition(path.stem, folder, file, kind, model)
    finally:
        model.config = V1


def _recognition(
    case: str, folder: Path, file: dict[str, NDArray[Any]], kind: str, model: Any
) -> Iterator[Result]:
    for i, threshold in enumerate(file["thresholds"]):
        least = None if threshold < 0 else float(threshold)
        found = recognize(
            file["image"], kind, model, threshold=least, table=_table(folder),
            device="cpu",
        )  # fmt: skip
        wrong = list(found.targets) != [str(t) for t in file["targets"]]
        yield Result(f"{case} targets", wrong, 0, not wrong, "")
        p = np.array(found.p_values, float)
        yield _close(f"{case} p-values", p, file["p_values"], P_VALUES)
        here = [t for t, is_in in zip(found.targets, found.found, strict=True) if is_in]
        wrong = sorted(here) != sorted(str(t) for t in file[f"kept_{i}"])
        yield Result(f"{case} kept {i}", wrong, 0, not wrong, str(here))
        for name, bits in zip(file[f"kept_{i}"], file[f"masks_{i}"], strict=True):
            mask = found.labels == found.targets.index(str(name)) + 1
            expected = np.unpackbits(bits)[: mask.size].reshape(mask.shape).astype(bool)
            share = float((mask != expected).mean())
            yield Result(f"{case} mask {name}", share, PIXELS, share <= PIXELS, "")


def _same(
    case: str, prob: Any, order: Any, kept: list[str], file: dict[str, NDArray[Any]]
) -> Result:
    order = list(order)
    found, masks = combine_masks(prob[order])
    names = [f"t{order[i]}" for i in found]
    expected = file[f"{case.removeprefix('pure_combine ')}_masks"]
    equal = names == kept and np.array_equal(masks, expected)
    return Result(case, not equal, 0, bool(equal), str(names))


def _close(case: str, found: Any, expected: Any, tolerance: float) -> Result:
    error = float(np.abs(np.asarray(found) - np.asarray(expected)).max())
    return Result(case, error, tolerance, error <= tolerance, "")


def _table(folder: Path) -> Path:
    shared = Path(__file__).parents[2] / "shared" / "reference_v1"
    return next(p / SYNTHETIC for p in (folder, shared) if (p / SYNTHETIC).exists())
