"""The record of a run: what it was made from, how, and which blocks are finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet, parse_prompts
from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.durable import write_durably
from napari_biomedparse.runs.record_check import check_manifest

MANIFEST = "manifest.json"
KIND = "napari-biomedparse run"
VERSION = 1
Kind = Literal["volume", "series", "consensus"]
MUST_MATCH = ("source", "model", "parameters", "output")
"""Parts of which any difference makes it another run."""


@dataclass(frozen=True)
class Block:
    """A finished block: slices whose labels are on the disk.

    Parameters
    ----------
    start, stop : int
        Range along the slicing axis.
    existence : list of P lists of float
        Probability that a prompt's target occurs, for each slice.
    voxels : list of P lists of int
        Voxels of each prompt, for each slice.
    checksum : str
        Of the labels (and edges).
    """

    start: int
    stop: int
    existence: list[list[float]]
    voxels: list[list[int]]
    checksum: str

    def text(self) -> str:
        """Return the block as JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Manifest:
    """All that a run's labels depend on, as plain JSON types, and its blocks.

    Parameters
    ----------
    source : dict
        The volume; see `identify`, and channel and time point if chosen from a file.
    model : str
        Identity of the weights.
    parameters : dict
        See `RunPlan.parameters`.
    output : dict
        Shape, dtype, slicing axis, thickness of a block and OME-Zarr version.
    load : str, optional
        Name or path by which the model can be loaded again.
    environment : dict
        Versions and device; not part of what must match, but for the device's type.
    blocks : tuple of Block
        By ascending start; complete once the run is finished.
    finished : str, optional
        When, in UTC.
    objects : int, optional
        How many, if objects were told apart; of a series the sum of all time points.
    parts : tuple of Manifest
        Of a series its time points, of a consensus the runs along each axis; complete
        once the run is finished.
    """

    source: dict[str, Any]
    model: str
    parameters: dict[str, Any]
    output: dict[str, Any]
    load: str | None
    environment: dict[str, str]
    blocks: tuple[Block, ...] = ()
    finished: str | None = None
    objects: int | None = None
    parts: tuple[Manifest, ...] = ()

    @property
    def kind(self) -> Kind:
        """Whether this is one volume, a time series, or a consensus."""
        if "times" in self.parameters:
            return "series"
        return "consensus" if "along" in self.output else "volume"

    @property
    def prompts(self) -> PromptSet:
        """The prompts."""
        texts = self.parameters["prompts"]
        instance = int(self.parameters["instances"])
        ranked = {label: texts[str(label)] for label in self.parameters["prompt_order"]}
        return parse_prompts({**ranked, INSTANCE_KEY: instance})

    @property
    def options(self) -> SegmentOptions:
        """The options."""
        values = {f.name: self.parameters[f.name] for f in fields(SegmentOptions)}
        slices = None if self.kind == "consensus" else tuple(values["slices"])
        return SegmentOptions(**(values | {"slices": slices}))

    @property
    def existence(self) -> npt.NDArray[np.float32]:
        """Existence probabilities, float32; NaN where not run.

        [P, slices]; of a series [P, T, slices]; of a consensus [P, 3, slices], one
        row an axis, with NaN after the end of a shorter one.
        """
        if self.kind == "volume":
            return self._block_existence()
        shape = self.output["shape"]
        if self.kind == "series":
            size = (self.output["times"], self._depth)
        else:
            size = (len(shape), max(shape))
        found = np.full((len(self.prompts), *size), np.nan, np.float32)
        for number, part in enumerate(self.parts):
            scores = part.existence
            found[:, number, : scores.shape[1]] = scores
        return found

    def _block_existence(self) -> npt.NDArray[np.float32]:
        found = np.full((len(self.prompts), self._depth), np.nan, np.float32)
        for block in self.blocks:
            found[:, block.start : block.stop] = block.existence
        return found

    @property
    def voxels(self) -> npt.NDArray[np.int64]:
        """Voxels of each prompt, int64 [P, slices]; 0 where not run.

        Of a series [P, T, slices]; of a consensus along the first axis.
        """
        if self.kind == "series":
            size = (len(self.prompts), self.output["times"], self._depth)
            found = np.zeros(size, np.int64)
            for number, part in enumerate(self.parts):
                found[:, number] = part.voxels
            return found
        found = np.zeros((len(self.prompts), self._depth), np.int64)
        for block in self.blocks:
            found[:, block.start : block.stop] = block.voxels
        return found

    @property
    def _depth(self) -> int:
        return int(self.output["shape"][self.output["axis"]])

    def differences(self, other: Manifest) -> list[str]:
        """Say in words what differs between this run and another one."""
        mine, others = (
            dict(_flat({part: getattr(manifest, part) for part in MUST_MATCH}))
            for manifest in (self, other)
        )
        if weights_checksum(self.model) == weights_checksum(other.model):
            others["model"] = mine["model"]  # however the file is called
        return [
            f"{key} was {mine.get(key)!r} and is {others.get(key)!r}"
            for key in sorted(mine.keys() | others.keys())
            if mine.get(key) != others.get(key)
        ]

    def save(self, folder: Path) -> None:
        """Write the manifest of a run folder, atomically."""
        record = {"kind": KIND, "version": VERSION, **asdict(self)}
        write_durably(folder / MANIFEST, json.dumps(record, indent=1))

    def with_blocks(self, blocks: Mapping[int, Block]) -> Manifest:
        """Return the manifest with these blocks, by start."""
        return replace(self, blocks=tuple(blocks[i] for i in sorted(blocks)))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Parameters
    ----------
    path : Path
        The file, or the run's folder.

    Returns
    -------
    Manifest

    Raises
    ------
    FormatError
        If it is none.
    """
    path = path / MANIFEST if path.is_dir() else path
    try:
        record = json.loads(path.read_text("utf-8"))
        if record.pop("kind") != KIND or record.pop("version") != VERSION:
            raise ValueError("it was written by something else or a later version")
        manifest = _parsed(record)
        check_manifest(manifest)
        return manifest
    except OSError as error:
        raise FormatError(
            f"{path} cannot be read ({error.strerror}); give a run's folder or its "
            f"{MANIFEST}."
        ) from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
            ValueError) as error:  # fmt: skip
        raise FormatError(
            f"{path} is not the record of a run ({error}); give a run's folder or its "
            f"{MANIFEST}."
        ) from error


def _parsed(record: dict[str, Any]) -> Manifest:
    blocks = tuple(Block(**block) for block in record.pop("blocks"))
    parts = tuple(map(_parsed, record.pop("parts", ())))
    # What an earlier version had no option for was done as by default.
    defaults = {f.name: f.default for f in fields(SegmentOptions)}
    defaults["prompt_order"] = sorted(map(int, record["parameters"]["prompts"]))
    record["parameters"] = defaults | record["parameters"]
    return Manifest(**record, blocks=blocks, parts=parts)


def refuse_differences(folder: Path, old: Manifest, new: Manifest) -> None:
    """Raise an `OutputError` that names what differs, if anything does."""
    if found := old.differences(new):
        raise OutputError(
            f"{folder} holds another run: {'; '.join(found)}. Choose another folder, "
            "give the same as before to continue it, or ask to overwrite it."
        )


def weights_checksum(model: str) -> str:
    """Return the checksum in what `model_identity` says."""
    return model.rpartition(" ")[2]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries by their dotted names."""
    if not isinstance(value, Mapping):
        yield key, json.loads(json.dumps(value))
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{key}.{name}" if key else str(name))
