"""Unit names: from whatever a file calls them to pint's names, and to OME's symbols."""

from __future__ import annotations

from typing import Any

PIXEL = "pixel"
"""Unit of an axis whose size is not given by the file."""
_BASES = frozenset(
    "meter second angstrom inch foot yard mile parsec minute hour day".split()
)
"""Units of length and time in OME-XML; the first two also with a prefix."""
_MICRO = "\N{MICRO SIGN}"


def unit_name(text: object) -> str:
    """Return the pint name of a unit of length or time; "pixel" if it is unknown.

    For example "micrometer" for ``"um"``, ``"micron"``, ``"micrometre"`` or the micro
    sign in any of its spellings, ImageJ's escaped one included.
    """
    name = str(text or "").strip().replace(r"\u00B5", _MICRO).replace(r"\u00b5", _MICRO)
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
