"""The command `doctor`: what to paste into a bug report.

It imports neither Qt nor napari, which may be what does not work.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from napari_biomedparse.cli._show import say
from napari_biomedparse.errors import pip_install

PACKAGES = (
    "numpy",
    "torch",
    "napari",
    "npe2",
    "zarr",
    "dask",
    "distributed",
    "tifffile",
    "nibabel",
    "huggingface_hub",
)
BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
MISSING = "not installed"
_GB = 1e9


def doctor() -> None:
    """Describe this installation and machine, to paste into a bug report."""
    for name, value in facts():
        say(f"{name}: {value}")


def facts() -> Iterator[tuple[str, str]]:
    """Yield names and values; no paths but those of Python and the weights."""
    yield "napari-biomedparse", _version("napari-biomedparse")
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    yield "System", platform.platform()
    for package in PACKAGES:
        yield package, _version(package)
    versions = {name: _version(name) for name in BINDINGS}
    found = [f"{name} {v}" for name, v in versions.items() if v != MISSING]
    yield "Qt bindings", ", ".join(found) or f"none; run: {pip_install('napari[all]')}"
    yield from _devices()
    yield from _weights()
    yield "Free disk, here", _free(Path.cwd())
    yield "Free disk, temporary files", _free(Path(tempfile.gettempdir()))


def _devices() -> Iterator[tuple[str, str]]:
    try:
        import torch
    except Exception as error:  # a broken install fails in many ways
        yield "Devices", f"torch cannot be imported ({error})"
        return
    from napari_biomedparse.engine.devices import available_devices

    yield "CUDA that torch was built for", str(torch.version.cuda or "none")
    yield "Devices", ", ".join(available_devices())
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        size = f"{properties.total_memory / _GB:.1f} GB"
        yield f"cuda:{i}", f"{properties.name}, {size}"
    yield "CPU threads", str(torch.get_num_threads())


def _weights() -> Iterator[tuple[str, str]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from napari_biomedparse.networks.catalogue import available_models
    from napari_biomedparse.networks.weights import is_downloaded

    yield "Models", ", ".join(available_models())
    yield "Published weights", "downloaded" if is_downloaded() else "not downloaded"
    cache = Path(HF_HUB_CACHE)
    yield "Folder of weights", str(cache)
    yield "Free disk, weights", _free(cache)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def _free(folder: Path) -> str:
    """Room on the disk of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / _GB:.1f} GB"
