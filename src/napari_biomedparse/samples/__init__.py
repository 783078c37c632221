"""Procedural sample volumes with known truth, as the demo model was trained on.

They are drawn from a seed with numpy and scipy, without any downloaded or real image.
"""

from __future__ import annotations

from napari_biomedparse.samples.phantom import (
    KINDS,
    TITLES,
    Phantom,
    make_phantom,
    sample_em,
    sample_light_sheet,
)

__all__ = [
    "KINDS",
    "TITLES",
    "Phantom",
    "make_phantom",
    "sample_em",
    "sample_light_sheet",
]
