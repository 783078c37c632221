"""Procedural sample volumes with known truth: what the demo model is trained on.

Everything is drawn from a seed with numpy and scipy; nothing is downloaded and no real
image is in them.
"""

from __future__ import annotations

from napari_biomedparse.samples.phantom import (
    KINDS,
    TITLES,
    Phantom,
    em_phantom,
    light_sheet_phantom,
    make_phantom,
    sample_em,
    sample_light_sheet,
)

__all__ = [
    "KINDS",
    "TITLES",
    "Phantom",
    "em_phantom",
    "light_sheet_phantom",
    "make_phantom",
    "sample_em",
    "sample_light_sheet",
]
