"""A run in words that can be run again: as a command line, and as Python.

No window and no network here: what is to be run comes as a `Recipe`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import OptionError

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet

PROGRAM = "napari-biomedparse"


@dataclass(frozen=True)
class Recipe:
    """All that a run's labels depend on.

    Parameters
    ----------
    source : Path
        File or folder of the volume.
    prompts : PromptSet
    options : SegmentOptions
    model : str
        Name or path.
    device : str
    channel : int, optional
        For files with several.
    time : int, optional
        One time point; without it, all of a series.
    series : bool
        Whether all time points are wanted.
    consensus : bool
        Whether to run along all axes and vote.
    folder : Path, optional
        The run's folder, for labels that are written as they come.
    scheduler : str, optional
        Address of a cluster.
    """

    source: Path
    prompts: PromptSet
    options: SegmentOptions
    model: str
    device: str = "auto"
    channel: int | None = None
    time: int | None = None
    series: bool = False
    consensus: bool = False
    folder: Path | None = None
    scheduler: str | None = None

    @property
    def output(self) -> Path:
        """Where the command writes: the run's folder, or a file in the current one."""
        name = self.source.name.partition(".")[0] or "volume"
        return self.folder or Path(f"{name}_labels.ome.zarr")


def as_command(recipe: Recipe) -> str:
    """Return a command line that gives the same labels.

    Parameters
    ----------
    recipe : Recipe

    Returns
    -------
    str
        One line, quoted for the shell of this system.

    Raises
    ------
    OptionError
        If the prompts have other label ids than 1, 2 and so on, or another order that
        counts, which only Python can say.
    """
    prompts = recipe.prompts
    if prompts.ids != tuple(range(1, len(prompts) + 1)):
        raise OptionError(
            f"The labels are {', '.join(map(str, prompts.ids))}, and a command numbers "
            "its prompts 1, 2 and so on; copy the run as Python instead."
        )
    if prompts.order and recipe.options.overlaps == "order":
        raise OptionError(
            f"The prompts take precedence in the order {list(prompts.order)}, and a "
            "command's in that of their numbers; copy the run as Python instead."
        )
    words = [PROGRAM, "segment", str(recipe.source), "-o", str(recipe.output)]
    for text in prompts.texts:
        words += ["-p", text]
    words += ["--model", recipe.model, "--device", recipe.device]
    for name in ("channel", "time", "scheduler"):
        if (value := getattr(recipe, name)) is not None:
            words += [f"--{name}", str(value)]
    if recipe.consensus:
        words.append("--consensus")
    words.append("--instances" if prompts.instance else "--no-instances")
    for name, value in _changes(recipe.options).items():
        text = f"{value[0]}:{value[1]}" if name == "slices" else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def as_python(recipe: Recipe) -> str:
    """Return a Python script after which ``labels`` are the same labels.

    Parameters
    ----------
    recipe : Recipe

    Returns
    -------
    str
        Some lines.
    """
    source = repr(str(recipe.source))
    choice = {"channel": recipe.channel, "time": recipe.time}
    chosen = {name: value for name, value in choice.items() if value is not None}
    given: dict[str, Any] = {"device": recipe.device, **_changes(recipe.options)}
    given["instances"] = recipe.prompts.instance
    if recipe.consensus:
        given["consensus"] = True
    imports, verb, folder = [], "segment", []
    if recipe.folder is not None:
        verb, volume, folder = "segment_to_folder", source, [repr(str(recipe.folder))]
        given = chosen | given
        if recipe.scheduler is not None:
            given["scheduler"] = recipe.scheduler
    elif recipe.series:
        imports = ["from napari_biomedparse.io import open_image"]
        volume, given = f"open_image({source})", chosen | given
    else:
        imports = ["from napari_biomedparse import open_volume"]
        volume = f"open_volume({_listed([source], chosen)})"
    imports.append(f"from napari_biomedparse import {verb}")
    texts = dict(zip(recipe.prompts.ids, recipe.prompts.texts, strict=True))
    texts = {label: texts[label] for label in recipe.prompts.ranked}
    arguments = ["volume", "prompts", *folder, repr(recipe.model)]
    found = "instances" if recipe.prompts.instance else "labels"
    return "\n".join(
        [
            *sorted(imports),
            "",
            f"volume = {volume}",
            f"prompts = {texts!r}",
            f"run = {verb}({_listed(arguments, given)})",
            f"labels = run.{found}",
            "",
        ]
    )


def _changes(options: SegmentOptions) -> dict[str, Any]:
    """Return the options that are not at their default, but for instances."""
    return {
        item.name: value
        for item in fields(SegmentOptions)
        if (value := getattr(options, item.name)) != item.default
        and item.name != "instances"
    }


def _listed(arguments: list[str], given: dict[str, Any]) -> str:
    return ", ".join([*arguments, *(f"{name}={v!r}" for name, v in given.items())])
