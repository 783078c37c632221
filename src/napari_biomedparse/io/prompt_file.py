"""Prompts in JSON files: label id to text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet, parse_prompts
from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.durable import whole_or_nothing

_EXAMPLE = '{"1": "mitochondria in electron microscopy"}'


def read_prompts(path: str | os.PathLike[str]) -> PromptSet:
    """Read prompts from a JSON file.

    Raises `FormatError` if it does not hold a JSON object, and `PromptError` if one of
    its prompts is not valid.
    """
    try:
        known = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(
            f"{path} cannot be read as prompts ({error}). It should be JSON such as "
            f"{_EXAMPLE}."
        ) from error
    if not isinstance(known, dict):
        raise FormatError(
            f"{path} holds a {type(known).__name__} at the top level. Prompts are an "
            f"object such as {_EXAMPLE}."
        )
    return parse_prompts(known)


def save_prompts(
    path: str | os.PathLike[str], texts: Mapping[int, str], *, instance: bool
) -> None:
    """Write prompts by label id as JSON, as `read_prompts` and `parse_prompts` take it.

    An existing file is replaced. `instance` is whether to separate objects. Raises
    `OutputError` if the file cannot be written.
    """
    known: dict[str, str | int] = {str(label): text for label, text in texts.items()}
    known[INSTANCE_KEY] = int(instance)
    with whole_or_nothing(Path(path), overwrite=True) as temporary:
        text = json.dumps(known, indent=2, ensure_ascii=False)
        temporary.write_text(text, "utf-8", newline="\n")
