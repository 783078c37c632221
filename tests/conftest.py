"""What all tests share: a tiny network, the shared files, and house rules.

Tests that open a window need Qt's libraries and, on Linux, a display or Xvfb. Where
these are missing they are skipped and the header says so; with CI set it is an error.
"""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_biomedparse.networks.v2.biomedparse import BiomedParse

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
GUI_FIXTURES = {"make_napari_viewer", "qapp", "qtbot"}
OPEN_FILES = Path("/proc/self/fd")


def _gui_problem() -> str | None:
    """Why no window can be opened here, or None."""
    try:
        importlib.import_module("qtpy.QtWidgets")
    except ImportError as error:
        return f"Qt cannot be loaded ({error})"
    headless = not {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"} & set(os.environ)
    if sys.platform == "linux" and headless and not shutil.which("Xvfb"):
        return "there is neither a display nor Xvfb (Debian package xvfb)"
    return None


THREADS = {
    name: os.environ.get(name)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
}
"""How many threads the tests' processes use, before dask.distributed changes it."""
GUI_PROBLEM = _gui_problem()
collect_ignore_glob = ["widgets/*"] if GUI_PROBLEM else []


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Go on without pytest-qt, which refuses to start where Qt cannot be loaded."""
    if GUI_PROBLEM and os.environ.get("CI"):
        raise pytest.UsageError(f"The GUI tests cannot run: {GUI_PROBLEM}.")
    if GUI_PROBLEM:
        pluginmanager.unregister(name="pytest-qt")


def pytest_report_header() -> str | None:
    """Say at the top that a part of the tests is left out."""
    return GUI_PROBLEM and f"GUI TESTS ARE SKIPPED: {GUI_PROBLEM}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs a window where none can be opened."""
    if GUI_PROBLEM and GUI_FIXTURES & set(getattr(item, "fixturenames", ())):
        pytest.skip(GUI_PROBLEM)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with sample files and reference results beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"there is no folder {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model() -> BiomedParse:
    """The network at its smallest, with random weights from a fixed seed."""
    from napari_biomedparse.networks.weights import load_model

    return load_model("tiny")


@pytest.fixture(autouse=True)
def as_many_threads_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what clusters that other fixtures start set for all later processes.

    Results are compared to the bit, and rounding depends on the number of threads.
    """
    for name, value in THREADS.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def state_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep what the package remembers of a user's clusters apart from the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute with `count` threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the workers of a cluster do."""
    with cpu_threads(1):
        yield


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute with one thread and with two: kernels part their work differently."""
    with cpu_threads(request.param):
        yield


@pytest.fixture(autouse=True)
def no_file_stays_open(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a file of its own, or a shared one, open (Linux)."""
    folders = (tmp_path_factory.getbasetemp().resolve(), SHARED.resolve())
    before = _open_files(folders)
    yield
    if _open_files(folders) - before:
        gc.collect()
    left = _open_files(folders) - before
    assert not left, f"files left open: {sorted(map(str, left))}"


def _open_files(folders: tuple[Path, ...]) -> set[Path]:
    found = set()
    for descriptor in OPEN_FILES.iterdir() if OPEN_FILES.is_dir() else ():
        try:
            path = descriptor.readlink()
        except OSError:  # closed since it was listed
            continue
        ours = path.name.startswith("napari-biomedparse-")  # held to the end
        inside = any(path.is_relative_to(folder) for folder in folders)
        if inside and path.is_file() and not (ours and path.suffix == ".lock"):
            found.add(path)
    return found
