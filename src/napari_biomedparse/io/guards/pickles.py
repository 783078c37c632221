"""Read the pickles inside challenge files without unpickling them.

`np.load` would use `pickle`, which runs any code in a file. Here the instructions are
followed by a small machine for plain values: it looks up no name, calls nothing, and
builds only dict, list, tuple, str, bytes, int, float, bool, None, and numpy scalars and
arrays of numbers or text. Tokens stand for numpy's names and types until all about them
is known.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_biomedparse.errors import FormatError

MAX_BYTES = 2**20
"""Largest size of a pickle; prompts take a few thousand bytes."""
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
_MARK = object()
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


def read_pickle(data: bytes, what: str) -> Any:
    """Return the plain value that a pickle of up to protocol 5 describes.

    Nothing is run or imported; anything else raises `FormatError`, which names file and
    part (`what`). A numpy scalar becomes the Python one; an object array of one element
    that element, a longer one a list; other arrays stay arrays.
    """
    try:
        if len(data) > MAX_BYTES:
            raise Refused(f"is longer than {MAX_BYTES} bytes")
        return finish(_Machine(data).run())
    except Refused as refusal:
        reason = str(refusal)
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        struct.error,
        RecursionError,
        MemoryError,
    ) as error:
        reason = f"is damaged ({error})"
    raise FormatError(
        f"{what} {reason}. Only text, numbers, lists, dictionaries and arrays of them "
        "are accepted. Nothing was run; request a clean copy of the file."
    )


class _Machine:
    """The pickle's stack and memo; instructions without a method are refused."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Follow the instructions to the end and return the one value left."""
        for opcode, argument, _ in pickletools.genops(self.data):
            name = opcode.name
            if name == "STOP":
                (value,) = self.stack
                return value
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise Refused(f"holds the pickle instruction {name}")
            if len(self.stack) > MAX_VALUES or len(self.memo) > MAX_VALUES:
                raise Refused(f"holds more than {MAX_VALUES} values")
        raise Refused("has no end")

    def pop_mark(self) -> list[Any]:
        for position in reversed(range(len(self.stack))):
            if self.stack[position] is _MARK:
                values = self.stack[position + 1 :]
                del self.stack[position:]
                return values
        raise Refused("is damaged (a mark is missing)")

    def drop_mark(self, _: Any) -> None:
        self.pop_mark()

    def get(self, key: Any) -> None:
        self.stack.append(self.memo[int(key)])

    def put(self, key: Any) -> None:
        self.memo[int(key)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def make_tuple(self, count: int) -> None:
        if count > len(self.stack):
            raise Refused("is damaged (a value is missing)")
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(values)

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Refused("adds values to something that is not a list")
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise Refused("sets a key of something that is not a dictionary")
        target.update(_pairs(values))

    def global_name(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self.stack.append(admit(module, name))

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(admit(module, name))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(construct(function, arguments))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        fill(target, state)


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise Refused("is damaged (a dictionary key has no value)")
    for key in values[::2]:
        if type(key) not in (str, int):
            raise Refused("has a dictionary key that is neither text nor a number")
    return dict(zip(values[::2], values[1::2], strict=True))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "LIST": lambda m, _: m.stack.append(m.pop_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_mark())),
    "TUPLE1": lambda m, _: m.make_tuple(1),
    "TUPLE2": lambda m, _: m.make_tuple(2),
    "TUPLE3": lambda m, _: m.make_tuple(3),
    "DICT": lambda m, _: m.stack.append(_pairs(m.pop_mark())),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_mark()),
    "SETITEM": lambda m, _: m.update([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.update(m.pop_mark()),
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_mark,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
