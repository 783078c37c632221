"""Unit names: from whatever files call them to the names that pint knows."""

from __future__ import annotations

PIXEL = "pixel"
"""Unit of an axis of which the file tells no size."""

_PREFIXES = {
    "Y": "yotta", "Z": "zetta", "E": "exa", "P": "peta", "T": "tera", "G": "giga",
    "M": "mega", "k": "kilo", "h": "hecto", "da": "deca", "": "", "d": "deci",
    "c": "centi", "m": "milli", "\N{MICRO SIGN}": "micro", "n": "nano", "p": "pico",
    "f": "femto", "a": "atto", "z": "zepto", "y": "yocto",
}  # fmt: skip
_NAMES = {
    **{prefix + "meter": symbol + "m" for symbol, prefix in _PREFIXES.items()},
    **{prefix + "second": symbol + "s" for symbol, prefix in _PREFIXES.items()},
    "angstrom": "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}",
    "inch": "in",
    "foot": "ft",
    "yard": "yd",
    "mile": "mi",
    "parsec": "pc",
    "minute": "min",
    "hour": "h",
    "day": "d",
    PIXEL: PIXEL,
}
"""Unit name to its symbol in OME-XML."""
_BY_SYMBOL = {symbol: name for name, symbol in _NAMES.items()}
_MICRO = "\N{MICRO SIGN}"
_SPOKEN = {"micron": "micrometer", "sec": "second", "msec": "millisecond"}
_PER_MILLIMETER = {
    "meter": 1e-3,
    "centimeter": 1e-1,
    "millimeter": 1.0,
    "micrometer": 1e3,
    "nanometer": 1e6,
    "angstrom": 1e7,
    "picometer": 1e9,
    "inch": 1 / 25.4,
}


def unit_name(text: object) -> str:
    """Return the pint name of a unit of length or time.

    Parameters
    ----------
    text : object
        For example ``"um"``, ``"micron"``, ``"micrometre"`` or the micro sign in any
        of its spellings, ImageJ's escaped one included.

    Returns
    -------
    str
        For example ``"micrometer"``; ``"pixel"`` for what is not known.
    """
    name = str(text or "").strip()
    for micro in (r"\u00B5", r"\u00b5", "\N{GREEK SMALL LETTER MU}"):
        name = name.replace(micro, _MICRO)
    if name in _BY_SYMBOL:
        return _BY_SYMBOL[name]
    if name[:1] == "u" and _MICRO + name[1:] in _BY_SYMBOL:
        return _BY_SYMBOL[_MICRO + name[1:]]
    name = name.lower().replace("metre", "meter")
    name = name if name in _NAMES or name in _SPOKEN else name.removesuffix("s")
    name = _SPOKEN.get(name, name)
    return name if name in _NAMES else PIXEL


def unit_symbol(name: str) -> str:
    """Return the OME-XML symbol of a unit given by its pint name."""
    return _NAMES.get(name, PIXEL)


def to_millimeters(size: float, unit: str) -> float | None:
    """Return a length in millimetres, or None if `unit` is no usual one of length."""
    per_millimeter = _PER_MILLIMETER.get(unit)
    return None if per_millimeter is None else size / per_millimeter
