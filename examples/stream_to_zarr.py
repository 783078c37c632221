"""Segment a volume of any length: slices go to disk as they are finished.

Usage: python stream_to_zarr.py INPUT OUTPUT.zarr PROMPT [MODEL]

INPUT is whatever `open_volume` takes. Only a few slices are in memory at a time.
"""

from __future__ import annotations

import sys

import zarr

import napari_biomedparse as nbp

source, target, prompt = sys.argv[1:4]
model = sys.argv[4] if len(sys.argv) > 4 else "tiny"
volume = nbp.open_volume(source)
labels = zarr.create_array(
    store=target,
    shape=volume.shape,
    chunks=(1, *volume.shape[1:]),
    dtype="uint8",
    dimension_names=volume.axes,
)

for part in nbp.iter_segment(volume, prompt, model=model, batch_size=2):
    labels[part.where] = part.labels
    best = part.existence.max()
    print(f"slices {part.start} to {part.stop - 1}: existence up to {best:.2f}")
