"""Golden cases of v2's 2-D mode and of its loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from golden_network import (
    FIELDS,
    LOGIT,
    compare,
    golden_field,
    load,
    logits_result,
    prefix_of,
    reference_model,
    seeded,
)
from golden_result import Result, check, relative_to

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.labels.resolve import upsample
from napari_biomedparse.networks.blocks.maskformer import MaskFormer
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.pipeline.loop import begin_slices, plan_batches
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.training.losses import (
    Targets,
    instance_edges,
    segmentation_losses,
)
from napari_biomedparse.training.slices import Sample, cut
from napari_biomedparse.training.volumes import TrainingVolume
from napari_biomedparse.training.wordings import Wordings

VALUE, GRADIENT = 1e-5, 1e-4
LABELS = {"binary": 1e-3, "hash": 5e-3}


def image_of_v2(path: Path) -> Iterator[Result]:
    """One image through v2 in its 2-D mode."""
    file, name = load(path), path.stem
    other = path.with_name(f"{name.removesuffix('_by_triple')}.npz")
    image = file["image"] if "image" in file else load(other)["image"]
    prompts, model = [str(text) for text in file["prompts"]], reference_model()
    pairs = zip(prompts, file["input_ids"], strict=True)
    wrong = sum(int((tokenize(text).ids != ids).sum()) for text, ids in pairs)
    yield Result(f"{name} ids", wrong, 0, wrong == 0, "")
    usual = model.pixel_mean, model.pixel_std
    model.pixel_mean, model.pixel_std = (
        torch.from_numpy(file[key]).view(1, 3, 1, 1)
        for key in ("pixel_mean", "pixel_std")
    )
    try:
        options = SegmentOptions(overlaps="separate")
        plan = plan_run(image, prompts, options, config=model.config)
        (batch,) = plan_batches(plan)
        sub = model.normalised(batch.slices)[0, :, ::16, ::16]
        yield compare(f"{name} input", sub, file["input_sub"], LOGIT)
        tokens = Engine(model, precision="float32").encode_prompts(prompts)
        seen = MaskFormer.encode_image(model, batch.slices)  # forgets other statistics
        for kind in (f for f in FIELDS if f"pred_gmasks_{f}" in file):
            out = model.decode(seen, tokens, golden_field(kind))
            large = upsample(out.mask_logits, plan.geometry.label_shape)
            shown = plan.geometry.restore(large[0].numpy())
            found = {
                "pred_gmasks": out.mask_logits[0, :, ::2, ::2],
                "edge_masks": out.edge_logits[0, :, ::4, ::4],
                "existence_logits": out.existence[0],
                "logits": torch.from_numpy(shown)[:, ::4, ::4],
            }
            for key, x in found.items():
                case = f"{name} {kind} {key}"
                yield logits_result(case, kind, x, file[f"{key}_{kind}"])
            labels = begin_slices(plan, 0, out)().labels
            bits = np.unpackbits(file[f"masks_{kind}"], axis=-1)
            masks = labels.reshape(len(prompts), *image.shape[:2]) > 0
            share = float((masks != bits[..., : masks.shape[-1]]).mean())
            yield check(f"{name} {kind} masks", share, LABELS[kind], "")
    finally:
        model.pixel_mean, model.pixel_std = usual


def v2_loss(path: Path) -> Iterator[Result]:
    """The loss with which v2 is fine-tuned."""
    file, name = load(path), path.stem
    prefix, labels = f"{prefix_of(file)}v2_loss/", torch.from_numpy(file["labels"])
    images, prompts = labels.shape[:2]
    pairs, side = images * prompts, file["grad_mask"].shape[-1]
    edges = instance_edges(labels)
    bits = np.unpackbits(file["edge_targets"], axis=-1)[..., : labels.shape[-1]]
    bits = bits.reshape(pairs, *bits.shape[-2:])
    wrong = int((edges.flatten(0, 1).numpy() != bits).sum())
    yield Result(f"{name} edges", wrong, 0, wrong == 0, "")
    with torch.inference_mode(False), torch.enable_grad():
        mask = (seeded(f"{prefix}mask", pairs, 1, side, side) * 2 - 1).requires_grad_()
        edge = (seeded(f"{prefix}edge", pairs, 1, side, side) * 2 - 2).requires_grad_()
        there = seeded(f"{prefix}existence", pairs, 1).requires_grad_()
        exists = labels.flatten(2).any(dim=2).float()
        truth = Targets(labels.float(), edges.float(), exists, torch.ones_like(exists))
        shape = labels.shape[-2:]
        masks, lines = (
            upsample(x.view(images, prompts, side, side), (shape[0], shape[1]))
            for x in (mask, edge)
        )
        truth = Targets(*(x.clone() for x in truth))
        scores = there.view(images, prompts)
        terms = segmentation_losses(masks, lines, scores, truth, 3.0)
        total = torch.stack(tuple(terms)).sum()
        grads = torch.autograd.grad(total, (mask, edge, there))
    yield relative_to(f"{name} total", [float(total)], [float(file["total"])], VALUE)
    for key, grad in zip(("mask", "edge", "existence"), grads, strict=True):
        expected = file[f"grad_{key}"]
        error = float(np.abs(grad.numpy() - expected).max() / np.linalg.norm(expected))
        yield check(f"{name} gradient of {key}", error, GRADIENT, "")


def prepared(path: Path) -> Iterator[Result]:
    """Preparation of training samples of v2's 2-D mode."""
    file = load(path)
    for case in (key.removesuffix("_shape") for key in file if key.endswith("_shape")):
        height, width = (int(n) for n in file[f"{case}_shape"])
        name = f"{prefix_of(file)}v2_2d_prepare/{case}"
        drawn = seeded(name, height // 8 + 2, width // 8 + 2, 3).numpy()
        drawn = drawn.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        image = np.clip(drawn * 60 + 120, 0, 255).astype(np.uint8)
        labels = np.zeros((height, width), np.uint8)
        if f"{case}_labels" in file:
            labels = np.unpackbits(file[f"{case}_labels"], axis=-1)[:, :width]
        if f"{case}_pixel" in file:
            labels[tuple(file[f"{case}_pixel"])] = 1
        volume = TrainingVolume(
            case, case, image[None], labels[None], Wordings({1: ("target",)}), (0,)
        )
        picture, mask = cut(volume, Sample(0, 0, 0), 512)
        expected = file[f"{case}_prepared_sub"]
        error = float(np.abs(picture[:, ::16, ::16].numpy() - expected).max())
        yield Result(f"{path.stem} {case} image", error, 1e-3, error <= 1e-3, "")
        ends = [float(picture.min()), float(picture.max())]
        error = float(np.abs(np.array(ends) - file[f"{case}_prepared_range"]).max())
        yield Result(f"{path.stem} {case} range", error, 1e-3, error <= 1e-3, "")
        bits = np.unpackbits(file[f"{case}_mask"], axis=-1)
        wrong = int((mask != bits).sum())
        yield Result(f"{path.stem} {case} mask", wrong, 0, wrong == 0, "")
