"""A model process without a network: labels are the voxels above 100.

The first argument says what goes wrong, if anything.
"""

from __future__ import annotations

import logging
import os
import sys
import time

import numpy as np

from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.errors import DeviceError
from napari_biomedparse.process.channel import open_channel
from napari_biomedparse.process.messages import (
    Planned,
    Previewed,
    PreviewRequest,
    Status,
)
from napari_biomedparse.process.serve import serve

MODE = sys.argv[1]


def segment(run):
    request = run.request
    volume, prompts = request.volume, request.prompts
    run.send(Status("Loading"))
    if isinstance(request, PreviewRequest):
        at = request.index
        time.sleep(1 if MODE == "slow" else 0)
        plane = np.asarray(volume.data[at : at + 1])
        labels = (plane > 100).astype(np.uint8) * prompts.ids[-1]
        existence = np.full((len(prompts), 1), 0.5, np.float32)
        shown = (plane / 255).astype(np.float32) if request.probabilities else None
        run.send(Previewed(SegmentedSlices(at, at + 1, 0, labels, existence), shown))
        return
    depth, kept, options = volume.shape[0], request.done, request.options
    run.send(
        Planned(
            axis=0,
            total=depth,
            kept=() if request.again else kept,
            provenance={},
            truncated=(),
            parameters={
                **vars(options),
                "model": "fake",
                "device": "cpu",
                "pid": os.getpid(),
            },
        )
    )
    if MODE == "warns":
        logging.getLogger("napari_biomedparse.labels").warning("Look out.")
    if MODE == "noisy":
        print("a library prints to stdout")
        os.system("echo and so does a program")
    if MODE == "refuses":
        raise DeviceError("There is no device 'cuda:7'.")
    if MODE == "bug":
        raise ZeroDivisionError("division by zero")
    if MODE == "dies":
        print("Killed by the test", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)
    done = {z for start, stop in kept for z in range(start, stop)}
    left, first = set(range(depth)) - done, True
    if request.again:
        left, done = done, set()
    while left:
        if (retuned := run.take_retuned()) is not None:
            options = retuned
            left |= done
        z = min(left, key=lambda at: (abs(at - (run.front or 0)), at))
        left.remove(z)
        done.add(z)
        plane = np.asarray(volume.data[z : z + 1])
        existence = np.full((len(prompts), 1), 0.5, np.float32)
        there = options.existence_threshold <= 0.5
        labels = (plane > 100).astype(np.uint8) * prompts.ids[0] * there
        run.send(SegmentedSlices(z, z + 1, 0, labels, existence))
        if MODE == "slow":
            time.sleep(0.25)
        if MODE == "stuck" and first:
            time.sleep(60)
        first = False
        yield


if __name__ == "__main__":
    channel = open_channel(int(sys.argv[2]))
    serve(channel, segment, on_end=lambda: os._exit(0))
