"""The values that a pickle may describe: plain ones, and checked ones of numpy.

Tokens stand for numpy's names and types until all about them is known.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_VALUES = 200_000
"""Largest number of values in a pickle."""
_MAX_DEPTH = 32
_NUMPY_MODULES = ("numpy._core.multiarray", "numpy.core.multiarray")
_ADMITTED = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{(module, "_reconstruct"): "_reconstruct" for module in _NUMPY_MODULES},
    **{(module, "scalar"): "scalar" for module in _NUMPY_MODULES},
}
_PLAIN_DTYPE = re.compile(r"[biufSU][0-9]{1,6}")
_OBJECT_DTYPE = re.compile(r"O[48]?")


class Refused(Exception):
    """The pickle contains something that is not plain data."""


@dataclass
class _Name:
    """One of the admitted names: a token, never the object that bears the name."""

    name: str


@dataclass
class _Dtype:
    """A dtype as described by the pickle, checked before numpy sees it."""

    code: str
    order: str = "|"

    @property
    def holds_objects(self) -> bool:
        return bool(_OBJECT_DTYPE.fullmatch(self.code))

    def build(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    """An array whose contents are not known yet."""

    shape: tuple[int, ...] = (0,)
    dtype: _Dtype | None = None
    values: Any = b""
    fortran: bool = False


def admit(module: object, name: object) -> _Name:
    """Return the token for a name, if it is admitted."""
    if not (isinstance(module, str) and isinstance(name, str)):
        raise Refused("asks for something without a name")
    if (module, name) not in _ADMITTED:
        raise Refused(f"asks for {module}.{name}")
    return _Name(_ADMITTED[module, name])


def construct(function: object, arguments: object) -> Any:
    """Return the result of an admitted name for its arguments, without calling it."""
    if type(function) is not _Name or type(arguments) is not tuple:
        raise Refused("calls something that is not a numpy constructor")
    return _construct(function.name, arguments)


def fill(target: object, state: object) -> None:
    """Give an array or a type its contents."""
    if type(target) is _Array:
        _fill_array(target, state)
    elif type(target) is _Dtype:
        _fill_dtype(target, state)
    else:
        raise Refused("sets the state of something that is not an array")


def finish(value: object) -> Any:
    """Return plain values without tokens, cycles or excess."""
    return _Finish().plain(value)


def _construct(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == "_reconstruct":
        kind = arguments[0] if len(arguments) == 3 else None
        if type(kind) is not _Name or kind.name != "ndarray":
            raise Refused("makes an array of an unknown kind")
        return _Array()
    if name == "dtype" and arguments and type(arguments[0]) is str:
        dtype = _Dtype(arguments[0])
        if dtype.holds_objects or _PLAIN_DTYPE.fullmatch(dtype.code):
            return dtype
        raise Refused(f"has values of the type {dtype.code!r}")
    if name == "scalar" and len(arguments) == 2:
        dtype, raw = arguments
        if type(dtype) is _Dtype and not dtype.holds_objects and type(raw) is bytes:
            (value,) = np.frombuffer(raw, dtype.build())
            return value.item()
    raise Refused(f"calls numpy's {name} in an unknown way")


def _fill_dtype(dtype: _Dtype, state: Any) -> None:
    """Take the byte order; subarrays, fields, titles and metadata are refused."""
    if type(state) is not tuple or not 5 <= len(state) <= 8:
        raise Refused("describes a type in an unknown way")
    order, parts = state[1], state[2:5]
    if order not in ("<", ">", "|", "=") or any(part is not None for part in parts):
        raise Refused("has values of a compound type")
    dtype.order = order


def _fill_array(array: _Array, state: Any) -> None:
    if type(state) is not tuple or len(state) != 5:
        raise Refused("describes an array in an unknown way")
    _, shape, dtype, fortran, values = state
    if type(dtype) is not _Dtype or type(shape) is not tuple:
        raise Refused("describes an array in an unknown way")
    if any(type(size) is not int or size < 0 for size in shape):
        raise Refused("has an array of an impossible shape")
    if type(values) is not (list if dtype.holds_objects else bytes):
        raise Refused("has an array whose values do not fit its type")
    array.shape, array.dtype = shape, dtype
    array.values, array.fortran = values, bool(fortran)


class _Finish:
    """Turns the machine's result into plain values, and counts them."""

    def __init__(self) -> None:
        self.seen = 0

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return a copy of `value` without tokens, cycles or excess."""
        self.seen += 1
        if self.seen > MAX_VALUES or depth > _MAX_DEPTH:
            raise Refused("is nested too deeply or without end")
        if type(value) in (list, tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        if type(value) is dict:
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        if type(value) is _Array:
            return self.array(value, depth)
        if value is None or type(value) in (str, bytes, int, float, bool):
            return value
        raise Refused("holds something that is not a value")

    def array(self, array: _Array, depth: int) -> Any:
        """Return the array, or for one of objects its elements."""
        if array.dtype is None:
            raise Refused("has an array without contents")
        count = math.prod(array.shape)
        if array.dtype.holds_objects:
            if len(array.values) != count:
                raise Refused("has an array with too few or too many elements")
            values = self.plain(array.values, depth + 1)
            return values[0] if count == 1 else values
        flat = np.frombuffer(array.values, array.dtype.build())
        if flat.size != count:
            raise Refused("has an array with too few or too many elements")
        return flat.reshape(array.shape, order="F" if array.fortran else "C").copy()
