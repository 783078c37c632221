"""Procedural sample volumes with known truth, as the demo model was trained on.

They are drawn from a seed with numpy and scipy, without any downloaded or real image.
"""

from __future__ import annotations

from napari_biomedparse.samples.phantom import (
    KINDS as KINDS,
    TITLES as TITLES,
    Phantom as Phantom,
    make_phantom as make_phantom,
    sample_em as sample_em,
    sample_light_sheet as sample_light_sheet,
)
