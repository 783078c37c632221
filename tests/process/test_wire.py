"""Messages arrive as they were said, and nothing else does."""

from __future__ import annotations

import io
import json
import os
import struct
import threading

import numpy as np
import pytest

from napari_biomedparse.errors import WorkerError
from napari_biomedparse.process.wire import Connection


@pytest.fixture
def pair():
    """A sending and a receiving connection over a pipe."""
    out, into = os.pipe()
    with open(out, "rb") as source, open(into, "wb") as sink:
        yield Connection(io.BytesIO(), sink), Connection(source, io.BytesIO())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.arange(6, dtype=">i2").reshape(3, 2),
        np.float32(2.5).reshape(()),
        np.zeros((0, 5), np.float64),
        np.arange(24).reshape(4, 6)[::2, ::3],
        np.array([True, False]),
    ],
    ids=["uint8", "big-endian", "scalar", "empty", "strided", "bool"],
)
def test_array_arrives(pair, array):
    sender, receiver = pair
    sender.send("slab", arrays=(array,), request=3)
    message = receiver.receive()
    assert (message.kind, message.fields) == ("slab", {"request": 3})
    np.testing.assert_array_equal(message.arrays[0], array)
    assert message.arrays[0].dtype == array.dtype


def test_several_arrays_and_text(pair):
    sender, receiver = pair
    arrays = np.arange(3, dtype=np.uint8), np.linspace(0, 1, 4), np.ones((2, 2), "u2")
    sender.send("slices", arrays=arrays, text="mitochondria µm", range=[1, 2])
    message = receiver.receive()
    assert message.fields == {"text": "mitochondria µm", "range": [1, 2]}
    for got, sent in zip(message.arrays, arrays, strict=True):
        np.testing.assert_array_equal(got, sent)


def test_messages_of_many_threads_do_not_mix(pair):
    sender, receiver = pair

    def talk(value: int) -> None:
        for _ in range(20):
            sender.send("slab", arrays=(np.full(5000, value),), value=value)

    threads = [threading.Thread(target=talk, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(80):
        message = receiver.receive()
        assert (message.arrays[0] == message.fields["value"]).all()
    for thread in threads:
        thread.join()


def test_end_of_stream_and_cut_message():
    assert Connection(io.BytesIO(), io.BytesIO()).receive() is None
    whole = io.BytesIO()
    Connection(io.BytesIO(), whole).send("slab", arrays=(np.arange(9),))
    cut = io.BytesIO(whole.getvalue()[:-1])
    assert Connection(cut, io.BytesIO()).receive() is None


def test_something_else_is_refused():
    noise = io.BytesIO(b"Downloading model.safetensors: 100%|######| 1.49G")
    with pytest.raises(WorkerError, match="not a message"):
        Connection(noise, io.BytesIO()).receive()


def test_objects_are_refused():
    header = json.dumps(
        {"kind": "slab", "fields": {}, "arrays": [{"dtype": "|O", "shape": [1]}]}
    ).encode()
    stream = struct.pack("<IQ", len(header), 8) + header + bytes(8)
    with pytest.raises(WorkerError, match="object"):
        Connection(io.BytesIO(stream), io.BytesIO()).receive()
