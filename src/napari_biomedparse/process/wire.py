"""Framed messages between napari and the model process: JSON and raw arrays.

A frame is the length of its header (4 bytes) and of its payload (8 bytes), both
little-endian, then the header (a JSON object) and the payload (the bytes of the
message's arrays, one after the other). Nothing is pickled, so that the same messages
can go over a socket. Who says what stands in the package's docstring.
"""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import WorkerError

PROTOCOL = 1
"""Version of the messages; both sides must have the same."""
_LENGTHS = struct.Struct("<IQ")
_LONGEST_HEADER = 64 * 2**20
_ARRAY_KINDS = "biuf"


@dataclass(frozen=True)
class Message:
    """One thing said to the other side.

    Parameters
    ----------
    kind : str
        What it is about, for example ``"read"``.
    fields : dict
        What JSON can hold.
    arrays : tuple of ndarray
        Of booleans, integers or real numbers, any byte order.
    """

    kind: str
    fields: dict[str, Any]
    arrays: tuple[npt.NDArray[Any], ...] = ()


class Connection:
    """Sends and receives messages over two byte streams.

    Any number of threads may send; one thread receives.

    Parameters
    ----------
    source : binary file
        Where the other side's messages arrive; buffered.
    sink : binary file
        Where ours go.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._sending = threading.Lock()

    def send(
        self, kind: str, *, arrays: Sequence[npt.NDArray[Any]] = (), **fields: Any
    ) -> None:
        """Say one thing.

        Parameters
        ----------
        kind : str
            What it is about.
        arrays : sequence of ndarray
            Sent as raw bytes in C order.
        **fields : JSON values
            The rest of the message.

        Raises
        ------
        OSError
            If the other side is gone.
        """
        described = [{"dtype": a.dtype.str, "shape": a.shape} for a in arrays]
        header = json.dumps(
            {"kind": kind, "fields": fields, "arrays": described}
        ).encode()
        size = sum(array.nbytes for array in arrays)
        with self._sending:
            self._sink.write(_LENGTHS.pack(len(header), size) + header)
            for array in arrays:
                if array.size:
                    self._sink.write(np.ascontiguousarray(array).reshape(-1).data)
            self._sink.flush()

    def receive(self) -> Message | None:
        """Wait for the other side's next message.

        Returns
        -------
        Message or None
            None when the other side has closed the stream.

        Raises
        ------
        WorkerError
            If the stream holds something else than messages.
        """
        lengths = self._read(_LENGTHS.size)
        if lengths is None:
            return None
        header_size, payload_size = _LENGTHS.unpack(lengths)
        if header_size > _LONGEST_HEADER:
            raise WorkerError(
                "The stream to the model process holds something that is not a "
                "message; press Run again to start a fresh process."
            )
        header = self._read(header_size)
        payload = None if header is None else self._read(payload_size)
        if header is None or payload is None:
            return None
        said = json.loads(header)
        arrays = _unpack(payload, said["arrays"])
        return Message(said["kind"], said["fields"], arrays)

    def _read(self, size: int) -> bytearray | None:
        """Read `size` bytes, or return None if the stream ends before."""
        buffer = bytearray(size)
        view, filled = memoryview(buffer), 0
        while filled < size:
            count = self._source.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                return None
            filled += count
        return buffer


def _unpack(
    payload: bytearray, described: list[dict[str, Any]]
) -> tuple[npt.NDArray[Any], ...]:
    """Cut the payload into its arrays, which share its memory."""
    arrays, offset = [], 0
    for entry in described:
        dtype, shape = np.dtype(str(entry["dtype"])), tuple(entry["shape"])
        if dtype.kind not in _ARRAY_KINDS:
            raise WorkerError(f"A message holds an array of type {dtype}.")
        count = math.prod(shape)
        array = np.frombuffer(payload, dtype, count, offset) if count else None
        arrays.append(np.empty(shape, dtype) if array is None else array.reshape(shape))
        offset += count * dtype.itemsize
    return tuple(arrays)
