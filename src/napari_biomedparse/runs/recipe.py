"""A run as a command line and as a Python script, which give the same labels."""

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
    """What a run's labels depend on."""

    source: Path
    """File or folder of the volume."""
    prompts: PromptSet
    options: SegmentOptions
    model: str
    """Name or path."""
    device: str = "auto"
    channel: int | None = None
    time: int | None = None
    """One time point."""
    series: bool = False
    """Whether all time points are segmented."""
    consensus: bool = False
    """Whether the runs along all axes vote."""
    folder: Path | None = None
    """The run folder, for labels that are written as they come."""
    scheduler: str | None = None
    """Address of a cluster."""

    @property
    def output(self) -> Path:
        """Where the command writes: the run folder, or a file in the current one."""
        name = self.source.name.partition(".")[0] or "volume"
        return self.folder or Path(f"{name}_labels.ome.zarr")


def as_command(recipe: Recipe) -> str:
    """Return a command line that gives the same labels, quoted for this system's shell.

    Raises
    ------
    OptionError
        If the prompts' label ids are not 1, 2 and so on, or their order matters and
        differs from that; only Python can express it.
    """
    prompts = recipe.prompts
    if prompts.ids != tuple(range(1, len(prompts) + 1)):
        raise OptionError(
            f"The labels are {', '.join(map(str, prompts.ids))}, but a command numbers "
            "its prompts 1, 2 and so on; copy the run as Python instead."
        )
    if prompts.order and recipe.options.overlaps == "order":
        raise OptionError(
            f"The prompts take precedence in the order {list(prompts.order)}, but in a "
            "command in ascending order; copy the run as Python instead."
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
    """Return a Python script that ends with the same ``labels``."""
    source = repr(str(recipe.source))
    choice = {"channel": recipe.channel, "time": recipe.time}
    chosen = {name: value for name, value in choice.items() if value is not None}
    given: dict[str, Any] = {"device": recipe.device, **_changes(recipe.options)}
    named = {} if recipe.folder or "axes" not in given else {"axes": given.pop("axes")}
    given["instances"] = recipe.prompts.instance
    if recipe.consensus:
        given["consensus"] = True
    verb, opens, folder = "segment", "open_volume", []
    if recipe.folder is not None:
        verb, volume, folder = "segment_to_folder", source, [repr(str(recipe.folder))]
        given = chosen | given
        if recipe.scheduler is not None:
            given["scheduler"] = recipe.scheduler
    elif recipe.series:
        opens = "open_image"
        volume, given = f"open_image({_listed([source], named)})", chosen | given
    else:
        volume = f"open_volume({_listed([source], chosen | named)})"
    names = verb if recipe.folder is not None else f"{opens}, {verb}"
    texts = dict(zip(recipe.prompts.ids, recipe.prompts.texts, strict=True))
    texts = {label: texts[label] for label in recipe.prompts.ranked}
    arguments = ["volume", "prompts", *folder, repr(recipe.model)]
    found = "instances" if recipe.prompts.instance else "labels"
    return "\n".join(
        [
            f"from napari_biomedparse import {names}",
            "",
            f"volume = {volume}",
            f"prompts = {texts!r}",
            f"run = {verb}({_listed(arguments, given)})",
            f"labels = run.{found}",
            "",
        ]
    )


def _changes(options: SegmentOptions) -> dict[str, Any]:
    """Return the options that are not at their default, except instances."""
    return {
        item.name: value
        for item in fields(SegmentOptions)
        if (value := getattr(options, item.name)) != item.default
        and item.name != "instances"
    }


def _listed(arguments: list[str], given: dict[str, Any]) -> str:
    return ", ".join([*arguments, *(f"{name}={v!r}" for name, v in given.items())])
