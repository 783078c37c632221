"""Kinds of image, and what is known about their grey levels.

Source of the CT windows: the preparation that the training data are documented to
have had (CVPR 2025 text-guided segmentation challenge).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Modality:
    """What is known about the intensities of one kind of image.

    Parameters
    ----------
    label : str
        Name for people.
    window : tuple of float, optional
        Lowest and highest Hounsfield unit that stay distinct. Without it the range
        comes from percentiles.
    """

    label: str
    window: tuple[float, float] | None = None


def _ct(label: str, width: float, level: float) -> Modality:
    return Modality(label, (level - width / 2, level + width / 2))


MODALITIES: dict[str, Modality] = {
    "auto": Modality("choose from the data"),
    "ct": _ct("CT, soft tissue", 400, 40),
    "ct-lung": _ct("CT, lung", 1500, -160),
    "ct-brain": _ct("CT, brain", 80, 40),
    "ct-bone": _ct("CT, bone", 1800, 400),
    "mr": Modality("MR"),
    "pet": Modality("PET"),
    "ultrasound": Modality("ultrasound"),
    "em": Modality("electron microscopy"),
    "light-sheet": Modality("light-sheet and other fluorescence microscopy"),
    "none": Modality("values as they are"),
}
