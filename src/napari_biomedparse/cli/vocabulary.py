"""The command `vocabulary`: what the network was trained to find."""

from __future__ import annotations

from napari_biomedparse.cli._show import say
from napari_biomedparse.data.vocabulary import suggested_prompts


def vocabulary(word: str = "", *, modality: str = "auto") -> None:
    """List prompts for everything that BiomedParse v2 was trained to find.

    Parameters
    ----------
    word
        Show only prompts that contain this.
    modality
        ct, mr, ultrasound, pet, em or light-sheet; auto for all.
    """
    for prompt in suggested_prompts(modality):
        if word.lower() in prompt.lower():
            say(prompt)
