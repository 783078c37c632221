"""Faults that end the process of a run; a script, started by test_apart.py.

It loads the network once and reads a line of JSON for each cell: ``source``,
``folder``, ``fault``, ``stage``. Each is done in a fork of this process, which does no
run itself; the answer is a line of JSON: ``status`` of the process, ``seconds`` from
the signal to its end, and what it ``said``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from faults.traps import trap
from faults.volumes import GIVEN, do_run, small_blocks

from napari_biomedparse.cli import app
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.runs import run

SLOW_READ = 20.0
"""Seconds that a part of the volume takes to be read while SIGINT comes."""
AFTER = {"labels": 2, "record": 2, "reading": 5, "predicting": 5}


def kill(cell: dict[str, str], model: Any) -> None:
    """Do a run that ends as by a power cut."""

    def strike() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    stage = cell["stage"]
    with trap(stage, strike, after=AFTER.get(stage, 0)):
        do_run(Path(cell["source"]), Path(cell["folder"]), model)


def interrupt(cell: dict[str, str], model: Any, tell: Callable[[], None]) -> None:
    """Do a run by the command line, and have it interrupted."""
    struck = False

    def strike() -> None:
        nonlocal struck
        if not struck:
            struck = True
            tell()
        if cell["stage"] == "reading":
            time.sleep(SLOW_READ)

    prompts = [text for prompt in GIVEN["prompts"] for text in ("-p", prompt)]
    command = ["segment", cell["source"], *prompts, "-o", cell["folder"]]
    command += ["--model", "tiny", "--instances", "--batch-size", "1"]
    stage = cell["stage"]
    # A shell has what it starts in the background ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (
        patch.object(run, "load_model", lambda name: model),
        trap(stage, strike, after=AFTER.get(stage, 0)),
    ):
        app(command)


@contextlib.contextmanager
def _said() -> Iterator[Any]:
    """Give a file that the forks' output goes to."""
    with open(os.memfd_create("said"), "w+") as file:
        yield file


def do(cell: dict[str, str], model: Any) -> dict[str, Any]:
    """Do a cell in a process of its own."""
    reached, tell = os.pipe()
    with _said() as said:
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            for stream in (1, 2):
                os.dup2(said.fileno(), stream)
            try:
                if cell["fault"] == "SIGINT":
                    interrupt(cell, model, lambda: os.write(tell, b"."))  # type: ignore[arg-type,return-value]
                else:
                    kill(cell, model)
            except SystemExit as end:
                _leave(end.code)
            except BaseException as error:
                print(repr(error), flush=True)
            _leave(70)  # it was to be ended
        os.close(tell)
        if cell["fault"] == "SIGINT":
            os.read(reached, 1)
            os.kill(process, signal.SIGINT)
        begun = time.monotonic()
        _, status = os.waitpid(process, 0)
        seconds = time.monotonic() - begun
        os.close(reached)
        said.seek(0)
        return {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": seconds,
            "said": said.read(),
        }


def _leave(code: Any) -> None:
    """End a fork as Python ends, which waits for threads at work."""
    sys.stdout.flush()
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    os._exit(code)


def main() -> None:
    """Answer until there are no more questions."""
    torch.set_num_threads(1)
    small_blocks(_set)
    model = load_model("tiny")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        print(json.dumps(do(json.loads(line), model)), file=answers, flush=True)


def _set(name: str, value: Any) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(import_module(module), attribute, value)


if __name__ == "__main__":
    main()
