"""Whether a run's record, which anybody may have written, can be what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari_biomedparse.runs.manifest import Block, Manifest

_MOST_SCORES = 2**27
"""Most existence probabilities of a run: 512 MB of them."""
_LONGEST = 2**40
_DTYPES = ("uint8", "uint16", "uint32", "uint64")
"""Types of labels; numpy would take more names, and parse some of them as Python."""


def check_manifest(manifest: Manifest, *, part: bool = False) -> None:
    """Refuse a manifest whose parts are not of the kinds or sizes they should be.

    Parameters
    ----------
    manifest : Manifest
        As parsed from JSON.
    part : bool
        Whether it is one run of a series or of a consensus.

    Raises
    ------
    ValueError, TypeError, LookupError, ArithmeticError, BiomedParseError
        If so.
    """
    for name in ("source", "parameters", "output", "environment"):
        _expect(isinstance(getattr(manifest, name), dict), f"{name} is no dictionary")
    _expect(isinstance(manifest.model, str), "model is no text")
    for name in ("load", "finished"):
        value = getattr(manifest, name)
        _expect(value is None or isinstance(value, str), f"{name} is no text")
    objects = manifest.objects
    _expect(objects is None or _is_count(objects), "objects is no number")
    output = manifest.output
    shape = output["shape"]
    _expect(isinstance(shape, list) and len(shape) == 3, f"the shape is {shape!r:.80}")
    _expect(all(_is_count(n) and n > 0 for n in shape), f"the shape is {shape!r:.80}")
    _expect(output["axis"] in (0, 1, 2), "the axis is none of 0, 1 and 2")
    _expect(
        _is_count(output["thickness"]) and output["thickness"] > 0,
        "thickness is no number",
    )
    _expect(output["ome_zarr"] in ("0.4", "0.5"), "ome_zarr is not 0.4 or 0.5")
    _expect(output["dtype"] in _DTYPES, f"dtype is none of {', '.join(_DTYPES)}")
    times = output.get("times", 1)
    _expect(_is_count(times) and times > 0, "times is no number")
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
    """Refuse the record of a block that cannot be one.

    Parameters
    ----------
    block : Block
    prompts, depth : int, optional
        How many there are, where known.

    Raises
    ------
    ValueError, TypeError
        If so.
    """
    start, stop = block.start, block.stop
    if not (_is_count(start) and _is_count(stop) and start < stop <= depth):
        raise ValueError(f"a block of the slices {start!r:.20} to {stop!r:.20}")
    for rows, kinds in ((block.existence, "fi"), (block.voxels, "i")):
        found = np.shape(rows)
        count = found[0] if prompts is None and found else prompts
        _expect(found == (count, stop - start), "scores that do not fit their block")
        _expect(np.asarray(rows).dtype.kind in kinds, "scores that are no numbers")
    _expect(isinstance(block.checksum, str), "a checksum that is no text")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LONGEST


def _expect(true: bool, wrong: str) -> None:
    if not true:
        raise ValueError(wrong)
