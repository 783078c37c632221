"""Pickles that try to run something, to crash the reader or to exhaust it."""

from __future__ import annotations

import builtins
import collections
import copyreg
import io
import os
import pickle
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.io.guards.pickles import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPTS = {"1": "liver in CT", "2": "Niere, \u00e4hnlich", "instance_label": 0}


class _Calls:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


class _Persistent(pickle.Pickler):
    def persistent_id(self, obj: Any) -> str | None:
        return "secret" if obj == "x" else None


def _persistent(protocol: int) -> bytes:
    stream = io.BytesIO()
    _Persistent(stream, protocol).dump(["x"])
    return stream.getvalue()


def object_array(*values: Any) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _numpy_call(function: bytes, arguments: bytes, state: bytes = b"") -> bytes:
    """Write a protocol 4 pickle that calls something of numpy's."""
    module, name = function.split(b":")
    names = b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)])
    return b"\x80\x04" + names + name + b"\x93" + arguments + b"R" + state + b"."


DTYPE_O = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x89\x88\x87R"
DTYPE_V = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02V8\x89\x88\x87R"
DTYPE_F = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f8\x89\x88\x87R"
SCALAR = b"numpy._core.multiarray:scalar"
NDARRAY = (
    b"\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93"
    b"\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"
)
POINTER = b"C\x08" + struct.pack("<Q", id(PROMPTS))


def hostile_pickles(canary: str) -> dict[str, bytes]:
    """Return pickles that try to create the file `canary`, or to harm otherwise."""
    shell = f"touch {canary}"
    python = f"open({canary!r}, 'w').close()"
    subarray = np.dtype((np.float64, (2,)))
    record = np.zeros(1, [("a", "O"), ("b", "f8")])
    return {
        "os.system": pickle.dumps(_Calls(os.system, shell)),
        "os.system, protocol 0": pickle.dumps(_Calls(os.system, shell), 0),
        "os.system, protocol 2": pickle.dumps(_Calls(os.system, shell), 2),
        "builtins.eval": pickle.dumps(_Calls(eval, python)),
        "builtins.exec": pickle.dumps(_Calls(exec, python)),
        "open": pickle.dumps(_Calls(builtins.open, canary, "w")),
        "getattr chain": pickle.dumps(
            _Calls(getattr, _Calls(__import__, "os"), "system")
        ),
        "numpy's own getattr": b"\x80\x04\x8c\x05numpy\x8c\x08f2py.sys\x93.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        "load from numpy": pickle.dumps(_Calls(np.load, canary)),
        "runstring": b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
        "old INST": f"(S'{shell}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'{shell}'\no.".encode(),
        "NEWOBJ": b"\x80\x02cos\n_wrap_close\n)\x81.",
        "copyreg": pickle.dumps(_Calls(copyreg._reconstructor, dict, object, None)),
        "extension code": b"\x80\x02\x82\x01.",
        "extension code, long": b"\x80\x02\x84\x01\x02\x03\x04.",
        "persistent id": _persistent(4),
        "persistent id, text": _persistent(0),
        "out-of-band buffer": b"\x80\x05\x97.",
        "hidden in an object array": pickle.dumps(
            object_array(PROMPTS, _Calls(os.system, shell))
        ),
        "array in array in array": pickle.dumps(
            object_array(object_array(object_array(_Calls(eval, python)), 1), 2)
        ),
        "as a dictionary key": pickle.dumps({_Calls(os.system, shell): 1}),
        "a set": pickle.dumps({1, 2}),
        "an ordered dictionary": pickle.dumps(collections.OrderedDict(a=1)),
        "a bytearray": pickle.dumps(bytearray(b"1"), 4),
        "a record array with objects": pickle.dumps(record),
        "a dtype with a subarray": pickle.dumps(_Calls(np.dtype, subarray)),
        "a dtype of a class": pickle.dumps(_Calls(np.dtype, os._wrap_close)),
        "a dtype by name": pickle.dumps(_Calls(np.dtype, "datetime64[ns]")),
        "a void scalar": _numpy_call(SCALAR, DTYPE_V + POINTER + b"\x86"),
        "an object scalar from a pointer": _numpy_call(
            SCALAR, DTYPE_O + POINTER + b"\x86"
        ),
        "an object scalar without its flag": _numpy_call(
            SCALAR,
            DTYPE_O
            + b"(K\x03\x8c\x01|NNNJ\x08\x00\x00\x00J\x08\x00\x00\x00K\x00tb"
            + POINTER
            + b"\x86",
        ),
        "an object array from pointers": (
            b"\x80\x04" + NDARRAY + b"(K\x01K\x01\x85" + DTYPE_O + b"\x89" + POINTER
            + b"tb."
        ),
        "an array larger than its bytes": (
            b"\x80\x04" + NDARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE_F + b"\x89"
            + POINTER + b"tb."
        ),
        "an array of negative size": (
            b"\x80\x04" + NDARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE_F + b"\x89"
            + POINTER + b"tb."
        ),
        "the bare array type": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93.",
        "an array without contents": b"\x80\x04" + NDARRAY + b".",
        "state for a dictionary": b"\x80\x04}}b.",
        "append to a tuple": b"\x80\x04)K\x01a.",
        "set an item of a list": b"\x80\x04]K\x01K\x02s.",
        "a tuple as a key": b"\x80\x04})K\x01s.",
        "a mark as a value": b"\x80\x04(\x85.",
        "deep nesting": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep tuples": b"\x80\x04)" + b"\x85" * 1_000_000 + b".",
        "a list that holds itself": b"\x80\x04]\x94h\x00a.",
        "billion laughs": b"\x80\x04]\x94" + b"".join(
            b"]\x94(h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(30)
        ) + b".",
        "a huge memo number": b"\x80\x04K\x01r\xff\xff\xff\xff",
        "a huge text claimed": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab.",
        "a huge frame claimed": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.",
        "a huge integer": b"L" + b"9" * 100_000 + b"L\n.",
        "an unknown protocol opcode": b"\x80\x04\xff.",
        "not UTF-8": b"\x80\x04\x8c\x02\xff\xfe.",
        "an empty stack": b"\x80\x04.",
        "pop from nothing": b"\x80\x040.",
        "get of nothing": b"\x80\x04h\x07.",
        "no end": pickle.dumps(PROMPTS)[:-1],
        "cut short": pickle.dumps(PROMPTS)[:20],
        "nothing": b"",
        "too long": b"\x80\x04" + b"K\x010" * (MAX_BYTES // 3) + b".",
        "too many values": b"\x80\x04(" + b"K\x01" * 300_000 + b"l.",
    }  # fmt: skip
