"""What helps before a run and after trouble: a report of the machine, an estimate.

The report imports neither Qt nor napari, which may be what does not work.
"""

from __future__ import annotations

import math
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_biomedparse.engine import Engine
    from napari_biomedparse.plan import RunPlan

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
_GB = 1e9
_PYRAMID = 4 / 3
"""What a label image takes with its coarser levels, as a share of the finest."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Parameters
    ----------
    seconds : float
        From the pace of one slice.
    memory : int or None
        Most bytes of this process; None where the system does not tell.
    device_memory : int or None
        Most bytes on a CUDA device; None on others.
    disk : int
        Bytes of the labels before compression, coarser levels included.
    """

    seconds: float
    memory: int | None
    device_memory: int | None
    disk: int

    def describe(self) -> str:
        """Say it in one line."""
        parts = [f"about {_duration(self.seconds)}"]
        if self.memory is not None:
            parts.append(f"{self.memory / _GB:.1f} GB of memory")
        if self.device_memory is not None:
            parts.append(f"{self.device_memory / _GB:.1f} GB on the device")
        parts.append(f"at most {self.disk / _GB:.2f} GB on disk")
        return ", ".join(parts)


def estimate(plan: RunPlan, engine: Engine) -> Estimate:
    """Run one slice in the middle and say what all of them will take.

    Parameters
    ----------
    plan : RunPlan
    engine : Engine

    Returns
    -------
    Estimate

    Raises
    ------
    FormatError, DeviceError
        As for the run itself.
    """
    import torch

    from napari_biomedparse.segment import run_plan

    middle = (plan.start + plan.stop) // 2
    one = replace(plan, start=middle, stop=middle + 1)
    on_cuda = engine.device.type == "cuda"
    list(run_plan(one, engine))  # the first slice also pays for prompts and kernels
    if on_cuda:
        before = torch.cuda.memory_allocated(engine.device)
        torch.cuda.reset_peak_memory_stats(engine.device)
    began = time.perf_counter()
    list(run_plan(one, engine))
    seconds = time.perf_counter() - began
    at_once = min(plan.slices_at_once, plan.stop - plan.start)
    device_memory = None
    if on_cuda:
        peak = torch.cuda.max_memory_allocated(engine.device)
        device_memory = before + at_once * (peak - before)
    labels = math.prod(plan.geometry.shape) * plan.label_dtype.itemsize
    memory = _peak_memory()
    if memory is not None:
        memory += (at_once - 1) * _slice_bytes(plan)
        if isinstance(plan.volume.data, np.ndarray):
            memory += labels * (2 if plan.instances else 1)
    return Estimate(
        seconds * (plan.stop - plan.start),
        memory,
        device_memory,
        round(labels * _PYRAMID),
    )


def report() -> str:
    """Describe package, machine and weights for a bug report.

    Returns
    -------
    str
        A line each, ``name: value``; no paths but those of weights and temporary
        files.
    """
    return "\n".join(f"{name}: {value}" for name, value in _facts())


def _facts() -> Iterator[tuple[str, str]]:
    yield "napari-biomedparse", _version("napari-biomedparse")
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    yield "System", platform.platform()
    for package in PACKAGES:
        yield package, _version(package)
    found = [f"{name} {_version(name)}" for name in BINDINGS if _has(name)]
    yield "Qt bindings", ", ".join(found) or "none; run: pip install 'napari[all]'"
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
    from napari_biomedparse.engine import available_devices

    yield "CUDA that torch was built for", str(torch.version.cuda or "none")
    yield "Devices", ", ".join(available_devices())
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        size = f"{properties.total_memory / _GB:.1f} GB"
        yield f"cuda:{i}", f"{properties.name}, {size}"
    yield "CPU threads", str(torch.get_num_threads())


def _weights() -> Iterator[tuple[str, str]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from napari_biomedparse.weights import available_models, is_downloaded

    yield "Models", ", ".join(available_models())
    yield "Published weights", "downloaded" if is_downloaded() else "not downloaded"
    cache = Path(HF_HUB_CACHE)
    yield "Weights are kept in", str(cache)
    yield "Free disk, weights", _free(cache)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _has(package: str) -> bool:
    return _version(package) != "not installed"


def _free(folder: Path) -> str:
    """Room on the disk of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / _GB:.1f} GB"


def _slice_bytes(plan: RunPlan) -> int:
    """Bytes that one more slice in a batch takes: input, and a few maps a prompt."""
    pixels = math.prod(plan.geometry.working_shape)
    maps = 3 + 3 * len(plan.prompts) * (2 if plan.instances else 1)
    return pixels * maps * np.dtype(np.float32).itemsize


def _peak_memory() -> int | None:
    """Most bytes this process has held so far."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
