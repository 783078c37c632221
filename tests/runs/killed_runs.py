"""Kills runs at random moments (SIGKILL) and resumes each; called by tests.

The network is loaded once; each run is a fork of this process, which uses no thread
before. Arguments: a folder for the runs, and how many kills; with a folder of images
as a third, these are one batch, which is killed again and again until it is done.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.batch import segment_files
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.run import segment_to_folder


def start(work: Callable[[], object]) -> int:
    """Do a run in a process of its own; return its id."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return process


def wait(process: int) -> None:
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit(f"a run ended with status {status}")


def kill_after(seconds: float, process: int) -> bool:
    """Kill a run; return whether it had finished before."""
    time.sleep(seconds)
    if os.waitpid(process, os.WNOHANG)[0]:
        return True
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def main(folder: Path, kills: int) -> int:
    """Return 0 if all resumed runs have the labels of one that was not killed."""
    model = load_model("tiny")
    grey = np.random.default_rng(0).integers(0, 255, (80, 48, 40), dtype=np.uint8)

    def run(name: str) -> int:
        prompts = ["liver", "cell"]
        return start(
            lambda: segment_to_folder(
                grey, prompts, folder / name, model, instances=True
            )
        )

    begun = time.monotonic()
    wait(run("whole"))
    seconds = time.monotonic() - begun
    moments, early, late = random.Random(0), 0, 0
    for number in range(kills):
        late += kill_after(moments.uniform(0, seconds), run(f"{number}"))
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


def batch(folder: Path, kills: int, images: Path) -> int:
    """Return 0 if a batch that was killed has the labels of one that was not."""
    from tiny_v1 import tiny_v1

    model, prompts = tiny_v1(), ["bright things", "a dark thing"]
    files, moments = sorted(images.iterdir()), random.Random(0)
    done: list[int] = []

    def run() -> int:
        return start(
            lambda: segment_files([images], folder, prompts, model, continue_=True)
        )

    for number in range(kills):
        process, wanted = run(), (number + 1) * len(files) // (kills + 1)
        while len(list(folder.glob("*/manifest.json"))) < wanted:
            if os.waitpid(process, os.WNOHANG)[0]:
                raise SystemExit("a batch ended before it was killed")
            time.sleep(0.005)
        kill_after(moments.uniform(0, 0.1), process)
        done.append(len(finished(folder)))
    wait(run())
    equal, found = 0, finished(folder)
    for file in files:
        labels = np.asarray(segment(file, prompts, model).labels)
        equal += np.array_equal(np.squeeze(found[file.stem].labels), labels)
    print(f"{equal} of {len(files)} equal; {done} were finished at a kill")
    return 0 if equal == len(files) and 0 < done[0] < done[-1] < len(files) else 1


def finished(folder: Path) -> dict[str, Run]:
    """Return the finished runs of a batch by name."""
    names = (path.parent.name for path in folder.glob("*/manifest.json"))
    runs = {name: Run(folder / name) for name in names}
    return {name: run for name, run in runs.items() if run.finished}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, count, *others = sys.argv[1:]
    if others:
        sys.exit(batch(Path(place), int(count), Path(others[0])))
    sys.exit(main(Path(place), int(count)))
