"""Unit names: from whatever a file calls them to pint's names, and to OME's symbols."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.options import parse_voxel_size
from napari_biomedparse.errors import OptionError

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume

PIXEL = "pixel"
"""Unit of an axis whose size is not given by the file."""
_BASES = frozenset(
    "meter second angstrom inch foot yard mile parsec minute hour day".split()
)
"""Units of length and time in OME-XML; the first two also with a prefix."""
_MICRO = "\N{MICRO SIGN}"
_TWICE = f"\N{LATIN CAPITAL LETTER A WITH CIRCUMFLEX}{_MICRO}"
"""The micro sign in UTF-8, read as Latin-1."""
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")


def unit_name(text: object) -> str:
    """Return the pint name of a unit of length or time; "pixel" if it is unknown.

    For example "micrometer" for ``"um"``, ``"micron"``, ``"micrometre"`` or the micro
    sign in any of its spellings, ImageJ's escaped one included.
    """
    name = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), str(text or "").strip())
    name = html.unescape(name).replace(_TWICE, _MICRO)
    if not name.isalpha() or len(name) > 32 or name == PIXEL:
        return PIXEL
    for spelling in (name, name.lower())[: 1 + (len(name) > 2)]:
        for prefix, base, _ in _registry().parse_unit_name(spelling):
            if base == "micron":
                return "micrometer"
            if base in _BASES and (not prefix or base in ("meter", "second")):
                return f"{prefix}{base}"
    return PIXEL


def unit_symbol(name: str) -> str:
    """Return the OME-XML symbol of a unit with a pint name."""
    return PIXEL if unit_name(name) == PIXEL else f"{_registry().Unit(name):~}"


def with_voxel_size(volume: Volume, text: str) -> Volume:
    """Return a volume with another size of its voxels, at the same place in voxels.

    `text` is as for `parse_voxel_size`; `OptionError` if its unit is not one of length.
    """
    sizes, symbol = parse_voxel_size(text)
    given, unit = dict(zip("zyx", sizes, strict=True)), unit_name(symbol)
    if to_millimeters(1.0, unit) is None:
        raise OptionError(
            f"Voxel size (voxel_size) has the unit {symbol!r}; give one of length, "
            "such as 0.5,0.1,0.1um."
        )
    old = list(zip(volume.axes, volume.spacing, volume.units, strict=True))
    spacing = tuple(given.get(axis, size) for axis, size, _ in old)
    units = tuple(unit if axis in given else known for axis, _, known in old)
    change = np.divide(spacing, volume.spacing)
    origin = tuple(np.multiply(volume.origin, change).tolist())
    matrix = volume.matrix and tuple(
        map(tuple, np.multiply(volume.matrix, change).tolist())
    )
    return replace(volume, spacing=spacing, units=units, origin=origin, matrix=matrix)


def to_millimeters(size: float, unit: str) -> float | None:
    """Return a length in millimetres, or None if `unit` is not one of length."""
    if unit_name(unit) == PIXEL:
        return None
    length = _registry().Quantity(size, unit)
    return float(length.m_as("millimeter")) if length.check("[length]") else None


def _registry() -> Any:
    """Return the registry that napari uses too; importing pint takes half a second."""
    import pint

    return pint.get_application_registry()  # type: ignore[no-untyped-call]
