"""Kills a process that paints into a run folder at random moments (SIGKILL), and looks.

Each process finds the strokes of those before it, possibly with the one that was under
way when it was killed, and goes on. Every tenth stroke undoes the one before. Called by
test_painting.py; arguments: the run folder, and how many kills and strokes.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np
from napari.layers import Labels

from napari_biomedparse.io import painting
from napari_biomedparse.io.painting import PaintableLabels
from napari_biomedparse.runs.folder import LABELS, Run

ACK = struct.Struct("<i")
SHAPE = (20, 300, 280)
Where = tuple[slice, slice, slice]


def stroke(number: int) -> tuple[tuple[int, int, int], int]:
    """Where and with what a stroke is painted."""
    at = random.Random(number)
    z, y, x = (at.randrange(size) for size in SHAPE)
    return (z, y, x), at.randrange(1, 200)


def layer_of(data: object) -> Labels:
    """Make a layer, whose history is empty."""
    layer = Labels(data)
    layer.brush_size = 7
    return layer


def play(layer: Labels, number: int, first: int) -> None:
    """Do a stroke, or undo the one before if the same process did it."""
    if number % 10 == 9 and number > first:
        layer.undo()
    else:
        layer.paint(*stroke(number), refresh=False)


def paint(
    folder: Path, states: tuple[np.ndarray, ...], begin: int, stop: int, told: int
) -> None:
    """Tell which of some states is found, and go on from it; tell after each stroke.

    A stroke that changes nothing, of a label over itself, leaves two equal states.
    """
    data = PaintableLabels(folder / LABELS)
    found = data[...]
    at = [np.array_equal(found, state) for state in states].index(True)
    os.write(told, ACK.pack(begin + at))
    layer = layer_of(data)
    for number in range(begin + at, stop):
        play(layer, number, begin + at)
        os.write(told, ACK.pack(number + 1))
    data.flush()


def main(folder: Path, kills: int, strokes: int) -> int:
    """Return 0 if no stroke was lost but those under way."""
    states = (np.asarray(Run(folder).labels).copy(),)
    moments, done, before, under_way = random.Random(0), 0, 0, 0
    begun = time.monotonic()
    for left in range(kills, -1, -1):
        stop = strokes if left == 0 else done + (strokes - done) // (left + 1)
        stop += moments.randrange(-50, 50) if left else 0
        reading, told = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                paint(folder, states, done, strokes, told)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        os.close(told)
        with os.fdopen(reading, "rb") as answers:
            first = ACK.unpack(answers.read(ACK.size))[0]
            under_way += first - done
            done = first
            while done < stop:
                done = ACK.unpack(answers.read(ACK.size))[0]
            if left:
                time.sleep(moments.uniform(0, 0.004))
                os.kill(process, signal.SIGKILL)
            while answer := answers.read(ACK.size):
                (done,) = ACK.unpack(answer)
        _, status = os.waitpid(process, 0)
        if (status != 0) == (left == 0):
            print(f"a process ended with status {status} after {done} strokes")
            return 1
        layer = layer_of(states[first - before])
        for number in range(first, done):
            play(layer, number, first)
        now = layer.data.copy()
        play(layer, done, first)
        states, before = (now, layer.data), done
    labels = np.asarray(Run(folder).labels)
    assert np.array_equal(labels, states[0]), "not all is in the Zarr"
    print(
        f"{done} strokes, {kills} kills, {under_way} of them during a stroke that was "
        f"whole; {time.monotonic() - begun:.1f} s"
    )
    return 0


if __name__ == "__main__":
    painting._LONG = 2**14  # it is shortened again and again
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
