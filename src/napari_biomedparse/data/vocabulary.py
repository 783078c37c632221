"""What BiomedParse v2 was trained to find, as prompts that it understands well.

Any other text is allowed too; the list helps to find the words.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from napari_biomedparse.errors import OptionError

_NAMES = {
    "ct": "CT",
    "mr": "MRI",
    "ultrasound": "Ultrasound",
    "pet": "PET",
    "em": "Electron microscopy",
    "light-sheet": "Light-sheet microscopy",
}
"""Modality in the list by modality of the options, which have several for CT."""
_PLACES = {
    "thorax": "the thorax",
    "abdomen and pelvis": "the abdomen",
    "heart": "the heart",
    "head and neck": "the head and neck",
    "spine and musculoskeletal": "the spine and skeleton",
    "calf muscle": "the calf",
    "neck": "the neck",
    "brain": "brain",
}
"""Regions of the list that are places; the others are kinds of targets."""


def suggested_prompts(modality: str = "auto") -> tuple[str, ...]:
    """List prompts that the model was trained on.

    They read like "CT imaging of spleen in the abdomen". The modality is a key of
    `MODALITIES`; those of any image ("auto") list all prompts, unknown ones raise an
    `OptionError`.
    """
    kind = modality.split("-")[0] if modality.startswith("ct") else modality
    if kind not in ("auto", "none", "positive", "positive-v1", *_NAMES):
        raise OptionError(
            f"There is no modality {modality!r}; choose auto, {', '.join(_NAMES)}."
        )
    wanted = [_NAMES[kind]] if kind in _NAMES else list(_NAMES.values())
    return tuple(
        dict.fromkeys(
            _prompt(name, target, region)
            for name in wanted
            for region, targets in _targets()[name].items()
            for target in targets
        )
    )


def _prompt(modality: str, target: str, region: str) -> str:
    place = _PLACES.get(region)
    where = f" in {place}" if place and place.split()[-1] not in target else ""
    return f"{modality} imaging of {target}{where}"


@cache
def _targets() -> dict[str, dict[str, list[str]]]:
    """Read targets by modality and region."""
    file = resources.files("napari_biomedparse") / "_data" / "vocabulary.json"
    targets: dict[str, dict[str, list[str]]] = json.loads(file.read_text("utf-8"))
    return targets
