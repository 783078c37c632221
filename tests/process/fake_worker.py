"""A model process without a network: labels are the voxels above 100.

The first argument says what goes wrong, if anything.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

from napari_biomedparse.errors import DeviceError
from napari_biomedparse.process.serve import serve
from napari_biomedparse.process.wire import Connection
from napari_biomedparse.process.worker import private_stdout

MODE = sys.argv[1]


def segment(job):
    volume, prompts = job.volume(), job.prompts()
    job.say("status", text="Loading")
    if "preview" in job.fields:
        at = job.fields["preview"]["at"]
        time.sleep(1 if MODE == "slow" else 0)
        plane = np.asarray(volume.data[at : at + 1])
        arrays = [(plane > 100).astype(np.uint8) * prompts.ids[-1]]
        arrays.append(np.full((len(prompts), 1), 0.5, np.float32))
        if job.fields["preview"]["probabilities"]:
            arrays.append((plane / 255).astype(np.float32))
        job.say("preview", arrays=arrays, start=at, stop=at + 1, axis=0)
        return
    depth, kept = volume.shape[0], job.fields["done"]
    job.say(
        "planned",
        axis=0,
        start=0,
        stop=depth,
        total=depth,
        kept=[] if job.fields["again"] else kept,
        provenance={},
        intensity="as they are",
        truncated=[],
        parameters={
            **job.fields["options"],
            "model": "fake",
            "device": "cpu",
            "pid": os.getpid(),
        },
    )
    if MODE == "noisy":
        print("a library prints to stdout")
        os.system("echo and so does a program")
    if MODE == "refuses":
        raise DeviceError("There is no device 'cuda:7'.")
    if MODE == "bug":
        raise ZeroDivisionError("division by zero")
    if MODE == "dies":
        print("Killed by the test", file=sys.stderr)
        os._exit(3)
    done = {z for start, stop in kept for z in range(start, stop)}
    again = job.fields["again"]
    options, left, first = job.options(), set(range(depth)) - done, True
    if again:
        left, done = done, set()
    while left:
        if (retuned := job.take_retuned()) is not None:
            options = retuned
            left |= done
        z = min(left, key=lambda at: (abs(at - (job.front or 0)), at))
        left.remove(z)
        done.add(z)
        plane = np.asarray(volume.data[z : z + 1])
        existence = np.full((len(prompts), 1), 0.5, np.float32)
        there = options.existence_threshold <= 0.5
        labels = (plane > 100).astype(np.uint8) * prompts.ids[0] * there
        job.say("slices", arrays=(labels, existence), start=z, stop=z + 1, axis=0)
        if MODE == "slow":
            time.sleep(0.25)
        if MODE == "stuck" and first:
            time.sleep(60)
        first = False
        yield


if __name__ == "__main__":
    connection = Connection(sys.stdin.buffer, private_stdout())
    serve(connection, segment, on_end=lambda: os._exit(0))
