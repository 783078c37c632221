"""The public names: pinned, sorted, all there, and cheap to import."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

import napari_biomedparse

PUBLIC = [
    "BiomedParseError",
    "Cancelled",
    "CheckpointError",
    "Consensus",
    "DeviceError",
    "Engine",
    "Evaluation",
    "FinetuneOptions",
    "FolderOptions",
    "FormatError",
    "OptionError",
    "OutputError",
    "Prompt",
    "PromptError",
    "PromptSet",
    "Recognition",
    "Run",
    "SegmentOptions",
    "Segmentation",
    "SegmentedSlices",
    "Taught",
    "Volume",
    "VolumeError",
    "WorkerError",
    "evaluate",
    "finetune",
    "iter_segment",
    "load_model",
    "measure_objects",
    "open_file",
    "open_image",
    "open_volume",
    "parse_prompts",
    "recognize",
    "reproduce",
    "save_labels",
    "segment",
    "segment_consensus",
    "segment_files",
    "segment_lazy",
    "segment_series",
    "segment_to_folder",
    "teach",
]
HEAVY = {"dask", "magicgui", "napari", "numpy", "qtpy", "torch", "typer", "zarr"}


def fresh_python(code: str) -> str:
    """Standard output of `code` in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names() -> None:
    assert napari_biomedparse.__all__ == sorted([*PUBLIC, "__version__"])
    assert dir(napari_biomedparse) == napari_biomedparse.__all__
    assert napari_biomedparse.__version__ == version("napari-biomedparse")


RENAMED = {"Consensus": "Segmentation"}
"""Earlier names of classes, which work for one release with a warning."""


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.filterwarnings("ignore:Consensus is now:DeprecationWarning")
def test_each_public_name_resolves(name: str) -> None:
    value = getattr(napari_biomedparse, name)
    assert value.__name__ == RENAMED.get(name, name)
    assert value.__module__.startswith("napari_biomedparse.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="attribute segmnt"):
        napari_biomedparse.segmnt  # noqa: B018


def test_importing_the_package_is_light() -> None:
    code = """
import json, sys, time
start = time.process_time()
import napari_biomedparse
seconds = time.process_time() - start
print(json.dumps([seconds, [name.partition(".")[0] for name in sys.modules]]))
"""
    seconds, modules = json.loads(fresh_python(code))
    assert seconds < 0.3
    assert HEAVY.isdisjoint(modules)


@pytest.mark.parametrize("module", ["viewer.layers", "cli"])
def test_readers_and_help_do_not_load_torch(module: str) -> None:
    code = f"import napari_biomedparse.{module}, sys; print('torch' in sys.modules)"
    assert fresh_python(code) == "False\n"


def test_the_widget_opens_without_the_libraries_of_files() -> None:
    code = """
import sys
import napari_biomedparse.widgets.segment.live_run
import napari_biomedparse.widgets.segment.widget
print(sorted({"dask.array", "ftfy", "tifffile", "torch", "zarr"} & set(sys.modules)))
"""
    assert fresh_python(code) == "[]\n"
