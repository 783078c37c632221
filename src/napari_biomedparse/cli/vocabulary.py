"""The command `vocabulary`: what can be asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_biomedparse.cli._show import out, told_in_one_line
from napari_biomedparse.data.vocabulary import suggested_prompts


def vocabulary(
    word: Annotated[
        str, typer.Argument(help="Show only prompts with this in them.")
    ] = "",
    modality: Annotated[
        str,
        typer.Option(help="ct, mr, ultrasound, pet, em or light-sheet; auto for all."),
    ] = "auto",
) -> None:
    """List prompts for all that BiomedParse v2 was trained to find."""
    with told_in_one_line():
        for prompt in suggested_prompts(modality):
            if word.lower() in prompt.lower():
                out.print(prompt, highlight=False, markup=False, soft_wrap=True)
