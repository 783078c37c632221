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
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import Prompt, PromptSet, parse_prompts
    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.evaluation.run import Evaluation, evaluate
    from napari_biomedparse.io import open_file, open_volume, save_labels
    from napari_biomedparse.labels.measure import measure_objects
    from napari_biomedparse.networks.weights import load_model
    from napari_biomedparse.pipeline.parts import Consensus, segment_consensus
    from napari_biomedparse.pipeline.segment import (
        Segmentation,
        iter_segment,
        segment,
        segment_lazy,
    )
    from napari_biomedparse.pipeline.series import segment_series
    from napari_biomedparse.runs.batch import segment_files
    from napari_biomedparse.runs.folder import Run
    from napari_biomedparse.runs.run import reproduce, segment_to_folder
    from napari_biomedparse.training.finetune import finetune
    from napari_biomedparse.training.options import FinetuneOptions

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
    "Consensus": "pipeline.parts",
    "Evaluation": "evaluation.run",
    "FinetuneOptions": "training.options",
    "Prompt": "data.prompts",
    "PromptSet": "data.prompts",
    "Run": "runs.folder",
    "SegmentOptions": "data.options",
    "Segmentation": "pipeline.segment",
    "SegmentedSlices": "data.results",
    "Volume": "data.volume",
    "evaluate": "evaluation.run",
    "finetune": "training.finetune",
    "iter_segment": "pipeline.segment",
    "load_model": "networks.weights",
    "measure_objects": "labels.measure",
    "open_file": "io",
    "open_volume": "io",
    "parse_prompts": "data.prompts",
    "reproduce": "runs.run",
    "save_labels": "io",
    "segment": "pipeline.segment",
    "segment_consensus": "pipeline.parts",
    "segment_files": "runs.batch",
    "segment_lazy": "pipeline.segment",
    "segment_series": "pipeline.series",
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
