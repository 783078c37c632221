"""Segment biomedical volumes by text prompts.

This module is the public door. Everything but the errors is imported on first use, so
that importing the package loads neither torch nor napari.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from napari_biomedparse.errors import (
    BiomedParseError,
    CheckpointError,
    DeviceError,
    FormatError,
    OptionError,
    OutputError,
    PromptError,
    VolumeError,
    WorkerError,
)

if TYPE_CHECKING:
    from napari_biomedparse.consensus import Consensus, segment_consensus
    from napari_biomedparse.evaluate.run import Evaluation, evaluate
    from napari_biomedparse.io import open_file, open_volume, save_labels
    from napari_biomedparse.measure import measure_objects
    from napari_biomedparse.options import SegmentOptions
    from napari_biomedparse.prompts import Prompt, PromptSet, parse_prompts
    from napari_biomedparse.runs.batch import segment_files
    from napari_biomedparse.runs.folder import Run
    from napari_biomedparse.runs.run import reproduce, segment_to_folder
    from napari_biomedparse.segment import (
        Segmentation,
        iter_segment,
        segment,
        segment_lazy,
    )
    from napari_biomedparse.series import segment_series
    from napari_biomedparse.slices import SegmentedSlices
    from napari_biomedparse.training.finetune import finetune
    from napari_biomedparse.training.options import FinetuneOptions
    from napari_biomedparse.volume import Volume
    from napari_biomedparse.weights import load_model

__all__ = [
    "BiomedParseError",
    "CheckpointError",
    "Consensus",
    "DeviceError",
    "Evaluation",
    "FinetuneOptions",
    "FormatError",
    "OptionError",
    "OutputError",
    "Prompt",
    "PromptError",
    "PromptSet",
    "Run",
    "SegmentOptions",
    "Segmentation",
    "SegmentedSlices",
    "Volume",
    "VolumeError",
    "WorkerError",
    "evaluate",
    "finetune",
    "iter_segment",
    "load_model",
    "measure_objects",
    "open_file",
    "open_volume",
    "parse_prompts",
    "reproduce",
    "save_labels",
    "segment",
    "segment_consensus",
    "segment_files",
    "segment_lazy",
    "segment_series",
    "segment_to_folder",
]

_HOMES = {
    "Consensus": "consensus",
    "Evaluation": "evaluate.run",
    "FinetuneOptions": "training.options",
    "Prompt": "prompts",
    "PromptSet": "prompts",
    "Run": "runs.folder",
    "SegmentOptions": "options",
    "Segmentation": "segment",
    "SegmentedSlices": "slices",
    "Volume": "volume",
    "evaluate": "evaluate.run",
    "finetune": "training.finetune",
    "iter_segment": "segment",
    "load_model": "weights",
    "measure_objects": "measure",
    "open_file": "io",
    "open_volume": "io",
    "parse_prompts": "prompts",
    "reproduce": "runs.run",
    "save_labels": "io",
    "segment": "segment",
    "segment_consensus": "consensus",
    "segment_files": "runs.batch",
    "segment_lazy": "segment",
    "segment_series": "series",
    "segment_to_folder": "runs.run",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__


class _Package(ModuleType):
    """Keeps ``segment`` the function: importing the submodule would replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
