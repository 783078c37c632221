"""Kills runs at random moments (SIGKILL) and resumes each; called by test_run.py.

The network is loaded once; each run is a fork of this process, which uses no thread
before. Arguments: a folder for the runs, and how many.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.run import segment_to_folder


def main(folder: Path, kills: int) -> int:
    """Return 0 if all resumed runs have the labels of one that was not killed."""
    torch.set_num_threads(1)
    model = load_model("tiny")
    grey = np.random.default_rng(0).integers(0, 255, (80, 48, 40), dtype=np.uint8)

    def run(name: str) -> int:
        """Do a run in a process of its own; return its id."""
        process = os.fork()
        if process == 0:
            try:
                segment_to_folder(
                    grey, ["liver", "cell"], folder / name, model, instances=True
                )
            except BaseException as error:
                print(name, repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        return process

    def wait(process: int) -> None:
        _, status = os.waitpid(process, 0)
        if status:
            raise SystemExit(f"a run ended with status {status}")

    begun = time.monotonic()
    wait(run("whole"))
    seconds = time.monotonic() - begun
    moments, early, late = random.Random(0), 0, 0
    for number in range(kills):
        process = run(f"{number}")
        time.sleep(moments.uniform(0, seconds))
        if os.waitpid(process, os.WNOHANG)[0]:
            late += 1  # it had finished
        else:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        early += not (folder / f"{number}" / "blocks").is_dir()
        wait(run(f"{number}"))
    whole = Run(folder / "whole")
    labels, objects = np.asarray(whole.labels), np.asarray(whole.instances)
    assert len(np.unique(labels)) > 1
    equal = 0
    for number in range(kills):
        resumed = Run(folder / f"{number}")
        equal += (
            resumed.finished
            and resumed.manifest.blocks == whole.manifest.blocks
            and np.array_equal(np.asarray(resumed.labels), labels)
            and np.array_equal(np.asarray(resumed.instances), objects)
        )
    print(
        f"{equal} of {kills} equal; {early} killed before or after blocks, {late} "
        f"had finished; a run takes {seconds:.1f} s"
    )
    return 0 if equal == kills else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
