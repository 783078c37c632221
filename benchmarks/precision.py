"""How far half precision is from float32: labels and logits on real volumes.

    python benchmarks/precision.py                       # demo model, on this CPU
    python benchmarks/precision.py --model synthetic     # full size, synthetic weights
    python benchmarks/precision.py --device cuda --model v2 --slices 63

Only the image side computes in half precision (see `Engine`). A CPU gives a GPU's
numbers but for the order of sums, slowly. Volumes are read from a folder with the
layout of the project's shared data. Prints a line for each volume and precision: voxels
of the slices with the same label, prompts that exist in a slice in one of the two only,
voxels with the same label in the slices without such a prompt, Dice of what was found,
and the largest and typical (95th percentile) difference of mask logits and of existence
probabilities.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_biomedparse.engine.engine import Engine, SlicePrediction, Tokens
from napari_biomedparse.evaluation.metrics import dice
from napari_biomedparse.io import open_volume
from napari_biomedparse.networks.config import V2
from napari_biomedparse.networks.weights import _build, load_model
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.segment import segment

Found = dict[str, Any]

NUCLEI = ["nuclei in fluorescence microscopy"]
CELLS = ["mitochondria in electron microscopy", "cell membranes in electron microscopy"]
ORGANS = ["liver in abdominal CT", "spleen in abdominal CT", "aorta in abdominal CT"]
HEART = ["left ventricle in cardiac ultrasound", "left atrium in cardiac ultrasound"]
VOLUMES = {
    "nuclei/stardist_img3d.tif": NUCLEI,
    "nuclei/cellseg3d_test_very_small.tif": NUCLEI,
    "nuclei/cellseg3d_c5image.tif": NUCLEI,
    "em/vnc_sstem_left_raw.tif": CELLS,
    "em/isbi2012_z00-13_raw.tif": CELLS,
    "challenge_npz/imgs/CT_AMOS_amos_0018.npz": ORGANS,
    "challenge_npz/imgs/US_Cardiac_patient0027_2CH_half_sequence.npz": HEART,
    "formats/nibabel_someones_anatomy.nii.gz": ["brain in MRI"],
}


class RecordingEngine(Engine):
    """An engine that keeps its predictions."""

    kept: list[SlicePrediction]

    def predict(self, slices: Tensor, tokens: Tokens, **how: Any) -> SlicePrediction:
        """Predict and keep what was said."""
        self.kept.append(super().predict(slices, tokens, **how))
        return self.kept[-1]


def synthetic() -> Any:
    """Build the full-size network with synthetic weights."""
    return _build(None, V2, None, "synthetic")


def run(engine: RecordingEngine, path: Path, texts: list[str], count: int) -> Found:
    """Segment slices in the middle; return labels and what they were made from."""
    volume = open_volume(path)
    plan = plan_run(volume, texts, config=engine.model.config)
    start = max(0, (plan.geometry.depth - count) // 2)
    stop = min(start + count, plan.geometry.depth)
    engine.kept = []
    found = segment(volume, texts, engine, slices=(start, stop))
    logits, _, existence = (torch.cat(x) for x in zip(*engine.kept, strict=True))
    return {
        "labels": np.asarray(found.labels),
        "axis": plan.geometry.axis,
        "slices": slice(start, stop),
        "logits": logits.numpy(),
        "existence": existence.sigmoid().numpy(),
    }


def compare(exact: Found, other: Found) -> dict[str, float]:
    """Return the figures of one volume and precision."""
    logits = np.abs(exact["logits"] - other["logits"])
    existence = np.abs(exact["existence"] - other["existence"])
    flips = (exact["existence"] >= 0.5) != (other["existence"] >= 0.5)
    same = np.moveaxis(exact["labels"] == other["labels"], exact["axis"], 0)
    same = same[exact["slices"]]
    return {
        "same_labels": float(same.mean()),
        "dice": dice(exact["labels"] > 0, other["labels"] > 0),
        "found": float((exact["labels"] > 0).mean()),
        "prompts_flipped": int(flips.sum()),
        "same_labels_elsewhere": float(same[~flips.any(1)].mean()),
        "logits_max": float(logits.max()),
        "logits_95": float(np.percentile(logits, 95)),
        "logits_std": float(exact["logits"].std()),
        "existence_max": float(existence.max()),
        "existence_median": float(np.median(existence)),
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
    model = load_model(args.model) if args.model != "synthetic" else synthetic()
    for name, texts in VOLUMES.items():
        given = (args.data / name, texts, args.slices)
        exact = run(RecordingEngine(model, args.device, precision="float32"), *given)
        for precision in args.precisions:
            half = RecordingEngine(model, args.device, precision=precision)
            other = run(half, *given)
            found = compare(exact, other)
            result[f"{name} {precision}"] = found
            figures = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            print(f"{name} {precision}: {figures}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
