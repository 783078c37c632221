"""How far half precision is from float32: labels and logits on real volumes.

    python benchmarks/precision.py                       # demo model, on this CPU
    python benchmarks/precision.py --device cuda --model v2 --slices 63

Only the image side computes in half precision (see `Engine`). A CPU gives a GPU's
numbers but for the order of sums, slowly. Volumes are read from a folder with the
layout of the project's shared data. Prints a line for each volume and precision: voxels
with the same label, Dice of what was found, and the largest and typical (95th
percentile) difference of mask logits and of existence probabilities.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_biomedparse.engine.engine import Engine, SlicePrediction
from napari_biomedparse.evaluation.metrics import dice
from napari_biomedparse.io import open_volume
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.loop import begin_slices, predict_slices
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.slicing.read import slice_batches

VOLUMES = {
    "nuclei/stardist_img3d.tif": ["nuclei in fluorescence microscopy"],
    "em/vnc_sstem_left_raw.tif": [
        "mitochondria in electron microscopy",
        "cell membranes in electron microscopy",
    ],
}


def run(engine: Engine, path: Path, texts: list[str], count: int) -> dict[str, Any]:
    """Segment slices in the middle; return labels and what they were made from."""
    plan = plan_run(open_volume(path), texts, config=engine.model.config)
    start = max(0, (plan.geometry.depth - count) // 2)
    stop = min(start + count, plan.geometry.depth)
    tokens = engine.encode_prompts(plan.prompts.texts)
    said: list[SlicePrediction] = []
    labels = []
    for begin, slices in slice_batches(
        plan.volume, plan.geometry, plan.intensity, start, stop, 4
    ):
        found = predict_slices(plan, lambda x: engine.predict(x, tokens), slices)
        said.append(SlicePrediction(*(x.cpu() for x in found)))
        labels.append(begin_slices(plan, begin, found)().labels)
    logits, _, existence = (torch.cat(x) for x in zip(*said, strict=True))
    return {
        "labels": np.concatenate(labels, axis=plan.geometry.axis),
        "logits": logits.numpy(),
        "existence": existence.sigmoid().numpy(),
    }


def compare(exact: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one volume and precision."""
    logits = np.abs(exact["logits"] - other["logits"])
    existence = np.abs(exact["existence"] - other["existence"])
    return {
        "same_labels": float((exact["labels"] == other["labels"]).mean()),
        "dice": dice(exact["labels"] > 0, other["labels"] > 0),
        "found": float((exact["labels"] > 0).mean()),
        "logits_max": float(logits.max()),
        "logits_95": float(np.percentile(logits, 95)),
        "logits_std": float(exact["logits"].std()),
        "existence_max": float(existence.max()),
    }


def main() -> None:
    """Print the table, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, default=Path("/work/shared/data"))
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {}
    for name, texts in VOLUMES.items():
        model = load_model(args.model)
        given = (args.data / name, texts, args.slices)
        exact = run(Engine(model, args.device, precision="float32"), *given)
        for precision in args.precisions:
            other = run(Engine(model, args.device, precision=precision), *given)
            found = compare(exact, other)
            result[f"{name} {precision}"] = found
            figures = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            print(f"{name} {precision}: {figures}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
