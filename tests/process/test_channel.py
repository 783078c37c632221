"""Messages arrive as they were sent, and nothing else does."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from napari_biomedparse import errors
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import BiomedParseError, WorkerError
from napari_biomedparse.process.channel import (
    Channel,
    open_channel,
    restore_array,
)
from napari_biomedparse.process.messages import (
    Done,
    Failed,
    FinetuneRequest,
    FolderRequest,
    Instances,
    Planned,
    Retune,
    Slab,
    Status,
)
from napari_biomedparse.runs.recipe import Recipe
from napari_biomedparse.training.options import FinetuneOptions


@pytest.fixture
def pair():
    """A sending and a receiving channel."""
    ours, theirs = Pipe()
    with ours, theirs:
        yield Channel(ours), Channel(theirs)


@pytest.fixture
def raw():
    """A connection, and the channel at its other end."""
    ours, theirs = Pipe()
    with ours, theirs:
        yield ours, Channel(theirs)


def exchange(pair, message):
    """Send and receive in two threads, as a message may be more than a pipe holds."""
    sender, receiver = pair
    sending = threading.Thread(target=sender.send, args=(7, message))
    sending.start()
    number, received = receiver.receive()
    sending.join()
    assert number == 7
    return received


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.arange(6, dtype=">i2").reshape(3, 2),
        np.array(2.5, np.float32),
        np.zeros((0, 5), np.float64),
        np.arange(24).reshape(4, 6)[::2, ::3],
        np.arange(24).reshape(4, 6).T,
        np.array([True, False]),
        np.random.default_rng(0).integers(0, 255, (3, 300, 300), dtype=np.uint8),
    ],
    ids="uint8 big-endian scalar empty strided transposed bool large".split(),
)
def test_array_arrives(pair, array):
    received = exchange(pair, Slab(3, array))
    assert received.read == 3
    np.testing.assert_array_equal(received.voxels, array)
    assert received.voxels.dtype == array.dtype
    assert received.voxels.flags.writeable


def test_several_arrays(pair):
    sent = Instances(
        2, np.arange(4, dtype=np.int32), np.ones(3, "u2"), np.ones(3, "f4")
    )
    received = exchange(pair, sent)
    assert received.start == 2
    np.testing.assert_array_equal(received.labels, sent.labels)
    np.testing.assert_array_equal(received.owners, sent.owners)


RECIPE = Recipe(
    Path("an image.tif"), parse_prompts(["µm"]), SegmentOptions(slices=(1, 2)), "v2"
)


@pytest.mark.parametrize(
    "message",
    [
        Done(),
        Status("mitochondria µm"),
        Slab(1, None),
        Retune(SegmentOptions(existence_threshold=0.25)),
        FolderRequest(RECIPE),
        FinetuneRequest(
            data=Path("data"),
            output=Path("out"),
            checkpoint="v2",
            options=FinetuneOptions(freeze=("text",)),
        ),
        Planned(1, ("long",), {"a": [1, None]}, 3, {}, kept=((0, 2),)),
        Planned(np.int64(1), (np.str_("a"),), {"b": np.float64(0.5)}, 3, {}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_message_arrives(pair, message):
    received = exchange(pair, message)
    assert received == message
    values = [*vars(received).values(), *getattr(received, "parameters", {}).values()]
    assert not any(isinstance(value, np.generic) for value in values)


def kinds_of_error():
    kinds = [v for v in vars(errors).values() if isinstance(v, type)]
    return [kind for kind in kinds if issubclass(kind, BiomedParseError)]


@pytest.mark.parametrize("kind", kinds_of_error())
def test_errors_keep_their_kind_and_text(pair, kind):
    error = kind("What was found. " * 300)
    received = exchange(pair, Failed(error)).error
    assert type(received) is kind
    assert str(received) == str(error)


def test_an_error_of_an_unknown_kind_keeps_its_text(pair):
    class Other(BiomedParseError):
        pass

    received = exchange(pair, Failed(Other("What was found."))).error
    assert type(received) is WorkerError
    assert str(received) == "What was found."


def test_messages_of_many_threads_do_not_mix(pair):
    sender, receiver = pair

    def talk(value: int) -> None:
        for _ in range(20):
            sender.send(value, Slab(value, np.full(50_000, value)))

    threads = [threading.Thread(target=talk, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(80):
        number, message = receiver.receive()
        assert (message.voxels == number).all()
    for thread in threads:
        thread.join()


def test_end_of_stream_and_cut_message(raw):
    connection, receiver = raw
    connection.send_bytes(struct.pack("<2Q", 5, 100))
    connection.send_bytes(bytes(5))
    connection.close()
    assert receiver.receive() is None
    assert receiver.receive() is None


def send_pickled(connection, pickled: bytes) -> None:
    connection.send_bytes(struct.pack("<Q", len(pickled)))
    connection.send_bytes(pickled)


def test_something_else_is_refused(raw):
    connection, receiver = raw
    connection.send_bytes(b"Downloading model.safetensors: 100%|######| 1.49G")
    with pytest.raises(WorkerError, match="not a message"):
        receiver.receive()
    connection.send_bytes(struct.pack("<Q", 2**62))
    with pytest.raises(WorkerError, match="not a message"):
        receiver.receive()
    send_pickled(connection, b"no pickle")
    with pytest.raises(WorkerError, match="not a message"):
        receiver.receive()


class Hostile:
    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "hostile",
    [
        Hostile(os.system, "touch hostile"),
        Hostile(eval, "open('hostile', 'w')"),
        Hostile(getattr, Status, "__init__"),
        np.array([Status("x")], dtype=object),
        {"nested": [Hostile(open, "hostile", "w")]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_foreign_objects_are_refused_by_both_ends(raw, hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connection, receiver = raw
    with pytest.raises(pickle.PicklingError):
        Channel(connection).send(1, Status(hostile))
    send_pickled(connection, pickle.dumps((1, Status(hostile))))
    with pytest.raises(WorkerError, match="not allowed"):
        receiver.receive()
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_objects_are_refused(raw):
    connection, receiver = raw
    objects = Hostile(restore_array, bytes(8), "O", (1,))
    send_pickled(connection, pickle.dumps((1, objects)))
    with pytest.raises(WorkerError, match="array of type"):
        receiver.receive()


@pytest.mark.skipif(sys.platform == "win32", reason="handles are inherited otherwise")
def test_the_process_does_not_pass_its_end_on(tmp_path):
    ours, theirs = Pipe()
    handle = os.dup(theirs.fileno())
    os.set_inheritable(handle, True)
    channel = open_channel(handle)
    assert not os.get_inheritable(handle)
    channel.close()
    ours.close()
    theirs.close()
