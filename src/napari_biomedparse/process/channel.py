"""A channel between napari and its model process, which carries messages as they are.

Messages are pickled, but neither end can be made to execute anything by what it
receives: a class that is not sent is refused. Arrays follow as raw bytes, in
pieces, so that they are not copied into a message first.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import threading
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from napari_biomedparse import errors
from napari_biomedparse.errors import BiomedParseError, WorkerError
from napari_biomedparse.process.messages import other_classes, usual_classes

if TYPE_CHECKING:
    from napari_biomedparse.process.messages import Message

_ARRAY_KINDS = "biuf"
_PIECE = 2**16
_MOST_PARTS = 1000
_LONGEST_PICKLE = 2**26


class Channel:
    """Sends and receives messages of numbered runs.

    Any number of threads may send; one thread receives.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, run: int, message: Message) -> None:
        """Send a message of a run.

        If the other side is gone, an `OSError` is raised; if the message holds anything
        but our own dataclasses, plain values and arrays of booleans, integers or real
        numbers, a `pickle.PicklingError`.
        """
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _Pickler(stream, 5, buffer_callback=buffers.append).dump((run, message))
        parts = [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]
        sizes = [part.nbytes for part in parts]
        with self._sending:
            self._connection.send_bytes(struct.pack(f"<{len(sizes)}Q", *sizes))
            for part in parts:
                for start in range(0, part.nbytes, _PIECE):
                    self._connection.send_bytes(part[start : start + _PIECE])

    def receive(self) -> tuple[int, Message] | None:
        """Wait for the next message, and the number of its run.

        The result is None when the other side has closed the channel. If something else
        than a message arrives, a `WorkerError` is raised.
        """
        try:
            sizes = self._connection.recv_bytes(8 * _MOST_PARTS)
            first, *others = struct.unpack(f"<{len(sizes) // 8}Q", sizes)
            if first > _LONGEST_PICKLE:
                raise ValueError(f"a message of {first} bytes")
            pickled, *buffers = [self._receive_part(n) for n in (first, *others)]
            unpickler = _Unpickler(io.BytesIO(pickled), buffers=buffers)
            return cast("tuple[int, Message]", unpickler.load())
        except (EOFError, ConnectionError):
            return None
        except OSError:
            raise
        except Exception as error:  # whatever bytes without a meaning lead to
            raise WorkerError(
                f"Something that is not a message came from the model process ({error})"
                "; press Run to start a new process."
            ) from error

    def _receive_part(self, size: int) -> bytearray:
        part = bytearray(size)
        for start in range(0, size, _PIECE):
            self._connection.recv_bytes_into(part, start)
        return part

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


def open_channel(handle: int) -> Channel:
    """Open the end that this process inherited; its own children do not inherit it."""
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        os.set_handle_inheritable(handle, False)
        return Channel(PipeConnection(handle))
    os.set_inheritable(handle, False)
    return Channel(Connection(handle))


def restore_array(
    buffer: bytearray, dtype: str, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """Make an array of its bytes, without a copy."""
    if np.dtype(dtype).kind not in _ARRAY_KINDS:
        raise pickle.UnpicklingError(f"an array of type {dtype}")
    return np.ndarray(shape, dtype, buffer)


def restore_plain(value: Any) -> Any:
    """Return the plain number or text that was sent for a value of a subclass."""
    return value


_Name = tuple[str, str]


def _by_name(values: Iterable[Any]) -> dict[_Name, Any]:
    return {(value.__module__, value.__qualname__): value for value in values}


_USUAL = _by_name(
    (
        *usual_classes(),
        *(value for value in vars(errors).values() if isinstance(value, type)),
        type(Path()),
        restore_array,
        restore_plain,
    )
)


def _allowed(name: _Name) -> Any:
    """Return the class or function of this module and name; None for all others."""
    return _USUAL.get(name) or _by_name(other_classes()).get(name)


class _Pickler(pickle.Pickler):
    """Pickles messages, and refuses what the other side would refuse."""

    def reducer_override(self, value: Any) -> Any:
        """Take arrays apart into bytes, type and shape, errors into kind and text."""
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in _ARRAY_KINDS:
                raise pickle.PicklingError(f"an array of type {value.dtype} was sent")
            flat = np.ascontiguousarray(value).reshape(-1)
            parts = pickle.PickleBuffer(flat.data), value.dtype.str, value.shape
            return restore_array, parts
        if isinstance(value, np.generic | str):  # such as a layer's scale
            return restore_plain, (
                str(value) if isinstance(value, str) else value.item(),
            )
        if isinstance(value, BiomedParseError):  # whatever others registered for it
            kind = type(value) if type(value) in _USUAL.values() else WorkerError
            return kind, (str(value),)
        named = value if isinstance(value, type | FunctionType) else type(value)
        if _allowed((named.__module__, named.__qualname__)) is not named:
            raise pickle.PicklingError(f"{named.__qualname__} is not sent")
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Makes messages and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of our own classes by its name."""
        if (allowed := _allowed((module, name))) is None:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return allowed
