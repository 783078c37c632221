"""Open a volume in napari, segment it and look at both, at the right scale.

Usage: python show_in_napari.py INPUT PROMPT [PROMPT ...]

The model has random weights: change "tiny" to "v2" for the published ones.
"""

from __future__ import annotations

import sys

import napari

import napari_biomedparse as nbp

source, *prompts = sys.argv[1:]
volume = nbp.open_volume(source)
result = nbp.segment(volume, prompts, model="tiny")

place = {"scale": volume.spacing, "translate": volume.origin, "units": volume.units}
viewer = napari.Viewer()
viewer.add_image(volume.data, name=volume.name, **place)
viewer.add_labels(result.labels, name=", ".join(prompts), **place)
napari.run()
