"""Golden cases of v1 that need no network: statistics, combination, recognition."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from golden_network import load, prefix_of, seeded
from golden_result import Result
from golden_v1 import reference_model
from numpy.typing import NDArray
from torch.nn import functional as F

from napari_biomedparse.evaluation.metrics import evaluate_mask
from napari_biomedparse.evaluation.scores import ClassLine, pair_scores
from napari_biomedparse.labels.likeness import (
    combine_masks,
    drop_covered,
    mask_statistics,
    p_value,
    read_table,
)
from napari_biomedparse.labels.watershed import split_by_shape
from napari_biomedparse.networks.config import V1
from napari_biomedparse.networks.v1.mask_decoder import Head
from napari_biomedparse.pipeline.recognize import recognize
from napari_biomedparse.training import grounding
from napari_biomedparse.training.grounding import (
    CHOICE_WEIGHT,
    Sought,
    grounding_losses,
    match,
)

NUMBERS, P_VALUES, PIXELS = 1e-5, 1e-3, 1e-3
SYNTHETIC = "target_dist_synthetic.json"


def instances(folder: Path) -> Iterator[Result]:
    """Objects of masks, up to their numbers."""
    file = load(folder / "pure_instances.npz")
    for key in (key for key in file if key.endswith("_mask")):
        expected = file[key.replace("mask", "instances")]
        found = split_by_shape(file[key] > 0)
        pairs = np.unique(np.stack([found, expected]).reshape(2, -1), axis=1)
        right = len(np.unique(found)) == len(np.unique(expected)) == pairs.shape[1]
        right &= np.array_equal(found > 0, expected > 0)
        note = f"{found.max()} objects"
        yield Result(f"pure_instances {key}", not right, 0, bool(right), note)


def metrics(folder: Path) -> Iterator[Result]:
    """Scores of masks, and of all of them together."""
    file = load(folder / "pure_metrics.npz")
    told = json.loads((folder / "pure_metrics.json").read_text())
    pairs = []
    for i, expected in enumerate(told["instances"]):
        mask = torch.from_numpy(file[f"m{i}_logits"]).sigmoid().numpy() > 0.5
        found = evaluate_mask(file[f"m{i}_gt"] > 0, mask)
        pairs.append(ClassLine(1, "", **found))
        names = ("IoU", "Dice", "I", "U", "pred_area")
        for name, value in zip(names, found.values(), strict=True):
            yield _close(f"pure_metrics m{i} {name}", value, expected[name][0], NUMBERS)
    scores = pair_scores(pairs)
    for name, value in told["scores"].items():
        yield _close(f"pure_metrics {name}", scores[f"{name} [%]"], value, NUMBERS)


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
        p = p_value(found, table[entry["modality"]][entry["target"]])
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


def loss(folder: Path) -> Iterator[Result]:
    """The grounding loss of one head, its matching and its gradients."""
    file = load(folder / "pure_loss.npz")
    prefix = f"{prefix_of(file)}loss/"
    images, queries = file["grad_embeddings_norm"].shape
    drawn, found = iter(enumerate(file["points_shapes"])), []

    def draw(masks: int, points: int) -> torch.Tensor:
        number, shape = next(drawn)
        assert (masks, points, 2) == tuple(shape)
        seed = zlib.crc32(f"{prefix}points{number}".encode())
        return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))

    def matched(*arguments: Any) -> Any:
        found.append(match(*arguments))
        return found[-1]

    with torch.inference_mode(False), torch.enable_grad():
        small = seeded(f"{prefix}masks", images, queries, 8, 8) * 3
        size = file["grad_masks_matched"].shape[-2:]
        masks = F.interpolate(small, size, mode="bilinear").requires_grad_()
        vectors = seeded(f"{prefix}embeddings", images, queries, 512).requires_grad_()
        scale = torch.ones((), requires_grad=True)
        sought = []
        for image in range(images):
            bits = np.unpackbits(file[f"truth{image}"], axis=-1)
            ends = seeded(f"{prefix}classes{image}", len(bits), 512)
            texts = torch.arange(len(bits))
            if len(bits) > 2:  # the third prompt is the first again
                ends[2], texts[2] = ends[0], texts[0]
            sought.append(Sought(torch.from_numpy(bits).float(), ends, texts))
        with patch.object(grounding, "match", matched):
            points = int(file["points_shapes"][0][1])
            terms = grounding_losses(Head(masks, vectors), sought, scale, draw, points)
        total = terms.mask_bce + terms.mask_dice + CHOICE_WEIGHT * terms.choice
        total.backward()
    losses = [float(one.detach()) for one in (*terms, total)]
    yield _close("pure_loss losses", losses, file["losses"], NUMBERS)
    pairs = [torch.cat(part).numpy() for part in zip(*found, strict=True)]
    expected = [file["matched_queries"], file["matched_prompts"]]
    wrong = int((np.array(pairs) != np.array(expected)).sum())
    yield Result("pure_loss pairs", wrong, 0, wrong == 0, str(pairs[0]))
    own = [image for image, (some, _) in enumerate(found) for _ in some]
    assert masks.grad is not None and vectors.grad is not None
    gradients = {
        "masks_sub": masks.grad[:, ::10],
        "masks_matched": masks.grad[own, pairs[0]],
        "embeddings_sub": vectors.grad[:, ::25],
        "embeddings_norm": vectors.grad.norm(dim=-1),
        "logit_scale": scale.grad,
    }
    for name, gradient in gradients.items():
        wanted = file[f"grad_{name}"]
        relative = NUMBERS * float(np.abs(wanted).max())
        yield _close(f"pure_loss {name}", gradient, wanted, relative)


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
            device="cpu", precision="float32",
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
