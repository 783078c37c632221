"""Options of a run folder, and requests that travel."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from napari_biomedparse.data.options import OptionChanges, SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import OptionError
from napari_biomedparse.runs.request import (
    FolderChanges,
    FolderOptions,
    RunRequest,
    cluster_packages,
    split_changes,
)


def test_changes_are_typed_as_the_options_are() -> None:
    ours = FolderChanges.__annotations__.keys() - OptionChanges.__annotations__.keys()
    typed = {name: FolderChanges.__annotations__[name].__forward_arg__ for name in ours}
    assert typed == {item.name: item.type for item in fields(FolderOptions)}


def test_changes_are_split() -> None:
    how, others = split_changes(FolderOptions(force=True), {"channel": 1, "axis": "z"})
    assert how == FolderOptions(force=True, channel=1)
    assert others == {"axis": "z"}


def test_versions_of_ome_zarr() -> None:
    version: Any = "0.3"
    with pytest.raises(OptionError, match=r"as 0\.4 or 0\.5, not '0\.3'"):
        FolderOptions(ome_zarr=version)


def test_a_request_travels() -> None:
    prompts = parse_prompts({3: "liver", 1: "cell"})
    request = RunRequest("a.tif", prompts, Path("out"), "tiny", SegmentOptions())
    assert request.path == Path("a.tif")
    again = pickle.loads(pickle.dumps(request))
    assert again == request
    assert again.words() == request.words()
    assert again.words()["volume"].endswith("a.tif")


def test_missing_packages_are_named() -> None:
    with pytest.raises(OptionError, match=r"napari-biomedparse\[cluster\]"):
        with cluster_packages():
            raise ImportError("no distributed")
