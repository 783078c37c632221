"""Imports point down the rows of the architecture; GUI libraries stay at its top."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import napari_biomedparse

PACKAGE = "napari_biomedparse"
ROWS = (
    {"errors", "version"},
    {"model", "prompts", "slices", "tokenizer", "volume"},
    {
        "chunks",
        "devices",
        "hub",
        "instances",
        "intensity",
        "io",
        "measure",
        "metrics",
        "overlaps",
        "phantoms",
        "postprocess",
        "preprocess",
        "vocabulary",
        "weights",
    },
    {
        "engine",
        "feature_cache",
        "options",
        "plan",
        "seen",
        "slicing",
        "step",
        "stream",
        "tiling",
    },
    {"consensus", "in_view", "preview", "score_store", "segment", "series"},
    {
        "_layer_axes",
        "_napari",
        "_samples",
        "_source",
        "demo",
        "estimate",
        "evaluate",
        "remote",
        "report",
        "run_report",
        "snippets",
        "runs",
        "training",
        "doctor",
        "why_empty",
        "worker",
    },
    {"_widgets", "cli"},
)
ROW = {module: row for row, modules in enumerate(ROWS) for module in modules}
DOORS = ROWS[-1]
ONLY_IN = {
    "lightning": {"training"},
    "magicgui": {"_napari", "_widgets"},
    "napari": {"_layer_axes", "_napari", "_samples", "_source", "_widgets"},
    "qtpy": {"_napari", "_widgets"},
    "superqt": {"_napari", "_widgets"},
    "typer": {"cli"},
}
RELATIVE = f"{PACKAGE}.<relative import>"
MODEL_MAY_IMPORT = {"numpy", "safetensors", "torch"} | sys.stdlib_module_names


def imported(source: str) -> set[str]:
    """Dotted names that `source` imports anywhere, ours down to the module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names |= {f"{PACKAGE}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module if node.module and not node.level else RELATIVE)
    return names


def violations(module: str, source: str) -> list[str]:
    """What the imports of `module` (a first-level name, like "io") break."""
    found = []
    for name in sorted(imported(source)):
        first, _, rest = name.partition(".")
        if first != PACKAGE:
            if module not in ONLY_IN.get(first, {module}):
                found.append(f"{module} imports {first}")
            if module == "model" and first not in MODEL_MAY_IMPORT:
                found.append(f"model imports {first}")
            continue
        target = rest.partition(".")[0]
        if target == module:
            continue
        if target not in ROW:
            found.append(f"{module} imports {name}, which has no row")
        elif ROW[target] > ROW[module] or target in DOORS:
            found.append(f"{module} imports upwards: {name}")
        elif module == "model" and target != "errors":
            found.append(f"model imports {name}")
    return found


FOLDER = Path(napari_biomedparse.__file__).parent
FILES = [p for p in sorted(FOLDER.rglob("*.py")) if p != FOLDER / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_imports_of_each_file_point_down(path: Path) -> None:
    module = path.relative_to(FOLDER).parts[0].removesuffix(".py")
    assert module in ROW, f"give {module} a row here, or a better home"
    assert violations(module, path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("io", "import napari_biomedparse.pipeline.segment"),
        ("io", "from napari_biomedparse import engine"),
        ("io", "def f():\n    from napari_biomedparse.engine.engine import Engine"),
        ("io", "from napari_biomedparse import open_volume"),
        ("io", "from . import zarr"),
        ("segment", "from qtpy.QtCore import QObject"),
        ("stream", "import napari.layers"),
        ("segment", "import typer"),
        ("evaluate", "import lightning"),
        ("model", "import scipy.ndimage"),
        ("model", "from napari_biomedparse.data.volume import Volume"),
        ("cli", "from napari_biomedparse._widgets import segment_widget"),
    ],
)
def test_a_violation_is_found(module: str, source: str) -> None:
    assert violations(module, source)


def test_what_is_allowed_passes() -> None:
    below = "import numpy\nfrom napari_biomedparse.errors import FormatError\n"
    beside = "from napari_biomedparse.io.formats.npz import open_npz\n"
    assert violations("io", below + beside) == []
    assert violations("model", "import torch.nn\n" + below) == []
    assert violations("_widgets", "import qtpy, magicgui, napari.layers") == []
