"""Prompts in JSON files: label id to text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet, parse_prompts
from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.durable import write_durably

_EXAMPLE = '{"1": "mitochondria in electron microscopy"}'


def read_prompts(path: str | os.PathLike[str]) -> PromptSet:
    """Read prompts from a JSON file.

    Raises
    ------
    FormatError
        If the file cannot be read or does not hold a JSON object.
    PromptError
        If a prompt in it is not valid.
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
    """Write prompts as JSON, as `read_prompts` and `parse_prompts` take it.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    texts : mapping of int to str
        By label id; the order is that of the prompts.
    instance : bool
        Whether to separate objects.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    known = {str(label): text for label, text in texts.items()}
    content = {**known, INSTANCE_KEY: int(instance)}
    try:
        write_durably(Path(path), json.dumps(content, indent=2, ensure_ascii=False))
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. Choose a folder "
            "with write permission."
        ) from error
