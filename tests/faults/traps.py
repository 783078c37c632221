"""Places in a run where a fault can strike, as seen from outside."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import zarr

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.runs import folder as run_folder, manifest as run_manifest

Strike = Callable[[], None]
READERS = ("tiff", "nifti", "npz", "zarr")
"""Modules of `io` whose volumes are read by `lazy_array`."""
STORES = {
    "labels": "labels.ome.zarr",
    "edges": "edges.zarr",
    "components": "components.zarr",
    "objects": "instances.ome.zarr",
}


def broken(code: int) -> Strike:
    """Return what raises an error of the system."""

    def strike() -> None:
        raise OSError(code, os.strerror(code))

    return strike


EIO = broken(errno.EIO)


@contextmanager
def trap(stage: str, strike: Strike, *, after: int = 0) -> Iterator[None]:
    """Have `strike` called at a stage, each time after so many passed it.

    Parameters
    ----------
    stage : str
        ``reading`` (a part of the volume), ``predicting`` (a slice), a store of
        `STORES` (a chunk is written), ``record`` (of a block) or ``manifest`` (the
        last, of a finished run).
    strike : callable
        May raise what it likes, or end the process.
    after : int
    """
    passed = 0

    def pass_by() -> None:
        nonlocal passed
        passed += 1
        if passed > after:
            strike()

    with _PLACES.get(stage, _writing)(stage, pass_by):
        yield


@contextmanager
def _reading(stage: str, pass_by: Strike) -> Iterator[None]:
    with ExitStack() as patches:
        for name in READERS:
            module = f"napari_biomedparse.io.formats.{name}.lazy_array"
            patches.enter_context(patch(module, _lazy_array_that(pass_by)))
        yield


def _lazy_array_that(pass_by: Strike) -> Callable[..., Any]:
    from napari_biomedparse.io.lazy import lazy_array

    def make(read: Callable[[Any], Any], *more: Any) -> Any:
        def read_past(index: Any) -> Any:
            pass_by()
            return read(index)

        return lazy_array(read_past, *more)

    return make


@contextmanager
def _predicting(stage: str, pass_by: Strike) -> Iterator[None]:
    real = Engine._encode_image

    def look(self: Any, slices: Any) -> Any:
        pass_by()
        return real(self, slices)

    with patch.object(Engine, "_encode_image", look):
        yield


@contextmanager
def _writing(stage: str, pass_by: Strike) -> Iterator[None]:
    real, name = zarr.storage.LocalStore.set, STORES[stage]

    async def put(self: Any, key: str, value: Any) -> None:
        if self.root.name == name and "/c/" in f"/{key}":
            pass_by()
        await real(self, key, value)

    with patch.object(zarr.storage.LocalStore, "set", put):
        yield


@contextmanager
def _recording(stage: str, pass_by: Strike) -> Iterator[None]:
    real = run_folder.write_durably

    def write(path: Any, text: str) -> None:
        pass_by()
        real(path, text)

    with patch.object(run_folder, "write_durably", write):
        yield


@contextmanager
def _finishing(stage: str, pass_by: Strike) -> Iterator[None]:
    real = run_manifest.write_durably

    def write(path: Any, text: str) -> None:
        if '"finished": null' not in text:
            pass_by()
        real(path, text)

    with patch.object(run_manifest, "write_durably", write):
        yield


_PLACES = {
    "reading": _reading,
    "predicting": _predicting,
    "record": _recording,
    "manifest": _finishing,
}
