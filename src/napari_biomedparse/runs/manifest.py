"""The record of a run: from what it was made, how, and which blocks are finished."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import PRECISIONS, SegmentOptions
from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet, parse_prompts
from napari_biomedparse.data.results import P_VALUES, READ_AS, Owners
from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.durable import write_durably
from napari_biomedparse.io.inputs import STATES, identify
from napari_biomedparse.io.lazy import plan_thickness

if TYPE_CHECKING:
    from napari_biomedparse.data.results import Kind
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan

MANIFEST = "manifest.json"
KIND = "napari-biomedparse run"
VERSION = 1
MUST_MATCH = ("source", "model", "parameters", "output")
"""Parts that are the same in the same run."""
_MOST_SCORES = 2**27
"""Maximum of existence probabilities in a run: 512 MB of them."""
_LONGEST = 2**40
_DTYPES = ("uint8", "uint16", "uint32", "uint64")
"""Types of labels; numpy accepts more names, and parses some of them as Python."""


@dataclass(frozen=True)
class Block:
    """A finished block: slices `start` to `stop`, whose labels are on the disk."""

    start: int
    stop: int
    existence: list[list[float | None]]
    """[P, slices] probability that a prompt's target occurs, or p; None if unknown."""
    voxels: list[list[int]]
    """[P, slices] voxels of each prompt."""
    checksum: str
    """Of the labels (and edges) that the network gave."""
    written: list[str] = field(default_factory=list, compare=False)
    """Checksums of the labels and the edges as written: with edits by hand."""
    read: str = field(default="", compare=False)
    """Checksum of the voxels that it was made of; see `SeenSlices`."""
    edits: int = field(default=0, compare=False)
    """Length of the journal of edits when it was written."""

    def text(self) -> str:
        """Return the block as JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Manifest:
    """What a run's labels depend on, as plain JSON types, and its blocks."""

    source: dict[str, Any]
    """The volume; see `identify`, and channel and time point if chosen from a file."""
    model: str
    """Identity of the weights."""
    parameters: dict[str, Any]
    """See `RunPlan.parameters`."""
    output: dict[str, Any]
    """Shape, dtype, slicing axis, thickness of a block and OME-Zarr version."""
    load: str | None
    """Name or path by which the model can be loaded again."""
    environment: dict[str, str]
    """Versions and device, which may differ in the same run."""
    blocks: tuple[Block, ...] = ()
    """By ascending start; complete, as the parts are, once the run is finished."""
    finished: str | None = None
    """When, in UTC."""
    objects: int | None = None
    """Their number if they were separated; of a series the sum of all time points."""
    parts: tuple[Manifest, ...] = ()
    """Time points of a series, runs along each axis of a consensus."""
    sealed: list[Any] = field(default_factory=list, compare=False)
    """Checksum of the objects, and the length of their journal then."""
    owners: dict[str, Any] | None = None
    """The prompts of separate objects, from `Owners.describe`."""

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
        """Existence probabilities, float32, as in `Segmentation`."""
        if self.kind != "consensus":
            return self._collect("existence", np.nan, np.float32)
        shape = self.output["shape"]
        found = np.full((len(self.prompts), len(shape), max(shape)), np.nan, np.float32)
        for row, part in enumerate(self.parts):
            found[:, row, : part._depth] = part.existence
        return found

    @property
    def voxels(self) -> npt.NDArray[np.int64]:
        """Voxels of each prompt, int64 [P, slices]; 0 where not run.

        Of a series [P, T, slices]; of a consensus along the first axis.
        """
        return self._collect("voxels", 0, np.int64)

    def _collect(self, name: str, nothing: float, dtype: type) -> npt.NDArray[Any]:
        """Combine the scores of blocks or, of a series, of time points."""
        size: tuple[int, ...] = (len(self.prompts), self._depth)
        if self.kind == "series":
            found = np.full((size[0], self.output["times"], size[1]), nothing, dtype)
            for number, part in enumerate(self.parts):
                found[:, number] = part._collect(name, nothing, dtype)
            return found
        found = np.full(size, nothing, dtype)
        for block in self.blocks:
            found[:, block.start : block.stop] = getattr(block, name)
        return found

    @property
    def _depth(self) -> int:
        return int(self.output["shape"][self.output["axis"]])

    def differences(self, other: Manifest) -> list[str]:
        """Describe what differs between this run and another one."""
        mine, others = (
            dict(_flat({part: getattr(manifest, part) for part in MUST_MATCH}))
            for manifest in (self, other)
        )
        for known in (mine, others):
            known.pop("parameters.mode", None)  # which may say auto
            known.setdefault(f"parameters.{READ_AS}", "3d")
        for key in ("source.chunks", "parameters.image_size"):
            if key not in mine:  # earlier versions did not record it
                others.pop(key, None)
        if weights_checksum(self.model) == weights_checksum(other.model):
            others["model"] = mine["model"]  # however the file is called
        return [
            f"{key} was {mine.get(key)!r} and is {others.get(key)!r}"
            for key in sorted(mine.keys() | others.keys())
            if mine.get(key) != others.get(key)
        ]

    def is_touched(self, other: Manifest) -> bool:
        """Return whether files of the volume have another size or time."""
        return any(
            key in self.source and self.source[key] != other.source.get(key)
            for key in STATES
        )

    def with_states(self, other: Manifest) -> Manifest:
        """Return the manifest with sizes and times of files from another one."""
        kept = {key: value for key, value in self.source.items() if key not in STATES}
        new = {key: other.source[key] for key in STATES if key in other.source}
        return replace(self, source=kept | new)

    def save(self, folder: Path) -> None:
        """Write the manifest of a run folder, atomically."""
        record = {"kind": KIND, "version": VERSION, **asdict(self)}
        write_durably(folder / MANIFEST, json.dumps(record, indent=1))

    def with_blocks(self, blocks: Mapping[int, Block]) -> Manifest:
        """Return the manifest with these blocks, by start."""
        return replace(self, blocks=tuple(blocks[i] for i in sorted(blocks)))


def describe_run(
    plan: RunPlan,
    engine: Engine,
    chosen: Mapping[str, Any],
    load: str | None,
    ome_zarr: str,
    *,
    kind: str | None = None,
) -> Manifest:
    """Make the manifest of a run before it begins.

    `chosen` are channel and time point if chosen from a file; `kind` is that of the
    devices that compute, if not the engine's.
    """
    import torch

    from napari_biomedparse.networks.weights import model_identity

    device = str(engine.device) if kind is None else kind
    shape, axis = plan.geometry.shape, plan.geometry.axis
    itemsize = plan.label_dtype.itemsize * (2 if plan.instances else 1)
    precision = plan.options.precision
    if kind != "cuda":  # a cluster's GPUs choose by what they can do
        precision = engine.precision
    return Manifest(
        source={**identify(plan.volume, plan.intensity.sampled), **chosen},
        model=model_identity(engine.model),
        parameters=plan.parameters() | {"precision": precision},
        output={
            "shape": list(shape),
            "dtype": str(plan.label_dtype),
            "axis": axis,
            "thickness": plan_thickness(shape, axis, itemsize),
            "ome_zarr": ome_zarr,
            "device": device.partition(":")[0],
        },
        load=load,
        environment={
            "device": device,
            "precision": "half" if precision == "auto" else precision,
            "torch": str(torch.__version__),  # a class of its own
            "numpy": np.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
    )


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file, or that of a run folder; else raise a `FormatError`."""
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
            f"{path} cannot be read ({error.strerror}); give a run folder or its "
            f"{MANIFEST}."
        ) from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
            ValueError) as error:  # fmt: skip
        raise FormatError(
            f"{path} is not the record of a run ({error}); give a run folder or its "
            f"{MANIFEST}."
        ) from error


def _parsed(record: dict[str, Any]) -> Manifest:
    blocks = tuple(Block(**block) for block in record.pop("blocks"))
    parts = tuple(map(_parsed, record.pop("parts", ())))
    # Options that an earlier version did not have are at their defaults.
    defaults = {f.name: f.default for f in fields(SegmentOptions)}
    if P_VALUES not in record["parameters"]:
        defaults["mode"] = "3d"  # the only one that v2 had
    recorded = record["environment"].get("precision")
    if recorded in PRECISIONS:
        defaults["precision"] = recorded
    defaults["prompt_order"] = sorted(map(int, record["parameters"]["prompts"]))
    record["parameters"] = defaults | record["parameters"]
    return Manifest(**record, blocks=blocks, parts=parts)


def refuse_differences(folder: Path, old: Manifest, new: Manifest) -> None:
    """Raise an `OutputError` that names what differs, if anything does."""
    if found := old.differences(new):
        raise OutputError(
            f"{folder} holds another run: {'; '.join(found)}. Choose another folder, "
            "repeat the same call to continue it, or overwrite it."
        )


def weights_checksum(model: str) -> str:
    """Return the checksum in a `model_identity`."""
    return model.rpartition(" ")[2]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries by their dotted names."""
    if not isinstance(value, Mapping):
        yield key, json.loads(json.dumps(value))
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{key}.{name}" if key else str(name))


def check_manifest(manifest: Manifest, *, part: bool = False) -> None:
    """Refuse a parsed, untrusted manifest if a value has the wrong kind or size.

    Raises a `ValueError`, `TypeError`, `LookupError`, `ArithmeticError` or
    `BiomedParseError`. A `part` is one run of a series or of a consensus.
    """
    for name in ("source", "parameters", "output", "environment"):
        _expect(
            isinstance(getattr(manifest, name), dict), f"{name} is not a dictionary"
        )
    _expect(isinstance(manifest.model, str), "model is not text")
    for name in ("load", "finished"):
        value = getattr(manifest, name)
        _expect(value is None or isinstance(value, str), f"{name} is not text")
    objects = manifest.objects
    _expect(objects is None or _is_count(objects), "objects is not a number")
    sealed = manifest.sealed
    fits = len(sealed) == 2 and isinstance(sealed[0], str) and _is_count(sealed[1])
    _expect(sealed == [] or fits, "sealed is no checksum of objects")
    owners = manifest.owners
    _expect(owners is None or Owners.parse(owners) is not None, "owners are damaged")
    output = manifest.output
    shape = output["shape"]
    _expect(isinstance(shape, list) and len(shape) == 3, f"the shape is {shape!r:.80}")
    _expect(all(_is_count(n) and n > 0 for n in shape), f"the shape is {shape!r:.80}")
    _expect(output["axis"] in (0, 1, 2), "the axis is not 0, 1 or 2")
    _expect(
        _is_count(output["thickness"]) and output["thickness"] > 0,
        "thickness is not a number",
    )
    _expect(output["ome_zarr"] in ("0.4", "0.5"), "ome_zarr is not 0.4 or 0.5")
    _expect(output["dtype"] in _DTYPES, f"dtype is not one of {', '.join(_DTYPES)}")
    times = output.get("times", 1)
    _expect(_is_count(times) and times > 0, "times is not a number")
    along = output.get("along", [])
    _expect(
        isinstance(along, list) and set(along) <= set("zyx"), "along names other axes"
    )
    prompts, depth = manifest.prompts, shape[output["axis"]]
    longest = max(shape) * len(shape) if along else depth
    _expect(
        len(prompts) * times * longest <= _MOST_SCORES,
        f"{len(prompts)} prompts in {times} times {longest} slices are too many",
    )
    if not part:
        manifest.options  # noqa: B018 - checks itself
    for block in manifest.blocks:
        check_block(block, len(prompts), depth)
    for one in manifest.parts:
        check_manifest(one, part=True)


def check_block(
    block: Block, prompts: int | None = None, depth: int = _LONGEST
) -> None:
    """Refuse an impossible record of a block with a `ValueError` or `TypeError`.

    `prompts` and `depth` are their numbers where known.
    """
    start, stop = block.start, block.stop
    if not (_is_count(start) and _is_count(stop) and start < stop <= depth):
        raise ValueError(f"a block of the slices {start!r:.20} to {stop!r:.20}")
    scores = [[math.nan if p is None else p for p in row] for row in block.existence]
    for rows, kinds in ((scores, "fi"), (block.voxels, "i")):
        found = np.shape(rows)
        count = found[0] if prompts is None and found else prompts
        _expect(found == (count, stop - start), "scores do not fit their block")
        _expect(np.asarray(rows).dtype.kind in kinds, "scores are not numbers")
    for one in (block.checksum, block.read, *block.written):
        _expect(isinstance(one, str), "a checksum is not text")
    _expect(_is_count(block.edits), "edits is not a number")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LONGEST


def _expect(true: bool, wrong: str) -> None:
    if not true:
        raise ValueError(wrong)
