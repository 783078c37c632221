"""Read the pickles inside challenge files without unpickling them.

`np.load` would use `pickle`, which runs any code in a file. Here the instructions are
followed by a small machine for plain values: it looks up no name, calls nothing, and
builds only dict, list, tuple, str, bytes, int, float, bool, None, and numpy scalars and
arrays of numbers or text.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import Any

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.guards.pickle_values import (
    MAX_VALUES,
    Refused,
    admit,
    construct,
    fill,
    finish,
)

MAX_BYTES = 2**20
"""Largest size of a pickle; prompts take a few thousand bytes."""
_MARK = object()


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
