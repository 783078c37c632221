"""Count how many of the package's files take part in three usual tasks.

    xvfb-run -a -s "-screen 0 1600x1000x24" python tests/count_files.py
    python tests/count_files.py python folder        # these need no window

A file counts if a profiler sees one of its functions called; in a second count also if
an import executes one of its class bodies. Module bodies never count. Imports happen
within the task, but for those of the window, which is open before the click. Of commit
72bbd5f the counts are 41, 52 and 87 (52 in napari's process, 44 in the model process),
and with class bodies 48, 61 and 104 (52 and 66). The tasks are:

python
    ``open_volume`` of a TIFF, ``segment``, ``save_labels`` as OME-Zarr.
folder
    ``segment_to_folder`` of that TIFF, with a progress function.
click
    One click on Run in napari's segment widget, until all slices are there; the files
    of napari's process and of the model process together.

Each task runs in a process of its own. With ``--list`` the files are named, too.
"""

from __future__ import annotations

import argparse
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Files = set[tuple[str, str]]
"""Kinds, f for function and c for class body, and names."""
RECORD = "COUNT_FILES_RECORD"
TASKS = ("python", "folder", "click")
FUNCTION = 0x1
"""The flag CO_OPTIMIZED, which functions have, and module and class bodies have not."""
PROMPTS = {1: "nuclei in fluorescence microscopy", 2: "background"}
LONGEST_WAIT = 120.0
"""Seconds for a run in the window."""


def main() -> int:
    """Count what the command line names, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="TASK")
    parser.add_argument("--list", action="store_true", help="name the files, too")
    chosen = parser.parse_args()
    for task in chosen.tasks:
        with tempfile.TemporaryDirectory() as folder:
            here, model = _files_of(task, Path(folder))
        counts = (_count(here, model, kinds) for kinds in ("f", "fc"))
        print("{}: {}; with class bodies {}".format(task, *counts), flush=True)
        if chosen.list:
            for name in sorted({name for _, name in here | model}):
                marks = "".join(
                    mark if (kind, name) in part else "-"
                    for part, mark in ((here, "h"), (model, "m"))
                    for kind in "fc"
                )
                print(f"  {marks} {name}")
    return 0


def _count(here: Files, model: Files, kinds: str) -> str:
    """Say how many files there are of these kinds."""
    a, b = ({name for kind, name in part if kind in kinds} for part in (here, model))
    parts = f" ({len(a)} in napari's process, {len(b)} in the model process)"
    return f"{len(a | b)}{parts if b else ''}"


def _files_of(task: str, folder: Path) -> tuple[Files, Files]:
    """Do a task in a process of its own; return its files, and its model process's."""
    command = [sys.executable, __file__, "--task", task]
    # The user's settings of napari stay as they are.
    environment = {**os.environ, RECORD: str(folder), "XDG_CONFIG_HOME": str(folder)}
    environment.pop("QT_QPA_PLATFORM", None)
    subprocess.run(command, env=environment, check=True, cwd=folder)
    return _read(folder / "here.txt"), _read(folder / "model.txt")


def _read(record: Path) -> Files:
    if not record.exists():
        return set()
    lines = record.read_text("utf-8").splitlines()
    return {(line[0], line[2:]) for line in lines}


class Counter:
    """Writes the name of each file of the package of which something is executed.

    A line is ``f NAME`` for a function and ``c NAME`` for a class body. Lines are
    written at once, as the model process may be killed at any time.

    Parameters
    ----------
    record : Path
    package : Path, optional
        Folder of the package; by default the one that would be imported.
    """

    def __init__(self, record: Path, package: Path | None = None) -> None:
        if package is None:
            spec = find_spec("napari_biomedparse")
            assert spec is not None and spec.origin is not None
            package = Path(spec.origin).parent
        self._root = str(package) + os.sep
        self._record = record.open("a", encoding="utf-8")
        self._known: set[CodeType] = set()
        self._lines: set[str] = set()
        self.active = False

    def install(self) -> None:
        """Watch this thread and all that start from now on, once `active` is set."""
        threading.setprofile(self._watch)
        sys.setprofile(self._watch)

    def _watch(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not self.active or code in self._known:
            return
        self._known.add(code)
        name = code.co_filename
        if not name.startswith(self._root) or code.co_name == "<module>":
            return
        kind = "f" if code.co_flags & FUNCTION else "c"
        line = f"{kind} {name.removeprefix(self._root)}\n"
        if line not in self._lines:
            self._lines.add(line)
            self._record.write(line)
            self._record.flush()


def do_task(task: str) -> None:
    """Do one task in this process and record its files."""
    folder = Path(os.environ[RECORD])
    path = make_volume(folder)
    counter = Counter(folder / "here.txt")
    counter.install()
    if task == "click":
        click(path, counter, folder / "model.txt")
        return
    import napari_biomedparse as biomedparse

    counter.active = True
    if task == "python":
        volume = biomedparse.open_volume(path)
        found = biomedparse.segment(volume, PROMPTS, "demo", device="cpu")
        biomedparse.save_labels(
            folder / "labels.ome.zarr",
            found.labels,
            volume=volume,
            prompts=found.prompts,
        )
    else:
        biomedparse.segment_to_folder(
            path,
            PROMPTS,
            folder / "run",
            "demo",
            device="cpu",
            on_progress=lambda done, total: None,
        )
    counter.active = False


def make_volume(folder: Path) -> Path:
    """Write a TIFF of six slices of noise."""
    import numpy as np
    import tifffile

    grey = np.random.default_rng(0).integers(0, 255, (6, 48, 48), dtype=np.uint8)
    path = folder / "volume.tif"
    tifffile.imwrite(path, grey, metadata={"axes": "ZYX"}, photometric="minisblack")
    return path


def click(path: Path, counter: Counter, record: Path) -> None:
    """Press Run in a window and wait for the end."""
    import time

    import napari
    from qtpy.QtWidgets import QApplication

    from napari_biomedparse.viewer.layers import read_layers
    from napari_biomedparse.widgets.segment.widget import SegmentWidget

    watch_children(record)
    viewer = napari.Viewer()
    for data, options, kind in read_layers(path):
        viewer._add_layer_from_data(data, options, kind)
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Segment with text")
    widget.form.model.value = "demo"
    widget.form.device.value = "cpu"
    widget.form.prompts.value = "\n".join(PROMPTS.values())
    QApplication.processEvents()
    counter.active = True
    widget.view.run_button.click()
    end = time.monotonic() + LONGEST_WAIT
    while widget.run is not None and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)
    counter.active = False
    print(widget.view.status.text(), flush=True)
    assert widget.run is None
    widget.session.close()
    viewer.close()
    os._exit(0)


def watch_children(record: Path) -> None:
    """Have child processes that run a module of the package count their files, too.

    They are started as ``python [options] -m MODULE ...``, ``python [options] -c CODE
    ...`` or ``python [options] FILE ...``; this file is put in between. Nothing needs
    an environment variable or a path, so it also works with the options ``-I``, ``-P``.
    """
    begin = subprocess.Popen.__init__

    def init(self: Any, args: Any, *more: Any, **options: Any) -> None:
        begin(self, in_between(args, record), *more, **options)

    subprocess.Popen.__init__ = init  # type: ignore[method-assign]


def in_between(args: Any, record: Path) -> Any:
    """Return a command with this file put in between, if it starts the package.

    THE LINE TO ADAPT, should the model process be started in another way, is the one
    that looks for the command's ``-m``, ``-c`` or file.
    """
    if isinstance(args, str) or "napari_biomedparse" not in " ".join(map(str, args)):
        return args
    args = [*map(str, args)]
    at = next(
        i
        for i, part in enumerate(args)
        if part in ("-m", "-c") or (i > 0 and part.endswith(".py"))
    )
    return [*args[:at], __file__, "--child", str(record), *args[at:]]


def be_child(record: Path, kind: str, what: str, rest: list[str]) -> None:
    """Do what ``python -m MODULE``, ``-c CODE`` or ``FILE`` does, and count files."""
    is_file = kind.endswith(".py")
    counter = Counter(record, Path(kind).parents[1] if is_file else None)
    counter.install()
    counter.active = True
    sys.argv = (
        [kind, what, *rest] if is_file else [what if kind == "-m" else "-c", *rest]
    )
    if is_file:
        runpy.run_path(kind, run_name="__main__")
    elif kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        be_child(Path(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
    elif sys.argv[1:2] == ["--task"]:
        do_task(sys.argv[2])
    else:
        sys.exit(main())
