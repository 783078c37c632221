"""Segment an array in memory and say what was found.

Usage: python segment_array.py [MODEL]

MODEL is "demo" by default, a small model that learned eight targets from phantoms; "v2"
is the published network.
"""

from __future__ import annotations

import sys

import numpy as np

import napari_biomedparse as nbp
from napari_biomedparse.samples import make_phantom

model = sys.argv[1] if len(sys.argv) > 1 else "demo"
image = make_phantom("em", seed=1).image  # any array with the axes [Z, Y, X]
prompts = ["mitochondria in electron microscopy", "cell nucleus in electron microscopy"]

result = nbp.segment(image, prompts, model=model, modality="em")

for prompt, existence in zip(result.prompts.prompts, result.existence, strict=True):
    voxels = np.count_nonzero(result.labels == prompt.id)
    print(f"{prompt.text}: {voxels} voxels, existence up to {existence.max():.2f}")
