"""The floors of the house, as docs/architecture.md has them.

Imports go strictly downwards between folders, those for types alone included. There is
no circle inside a folder, nothing of ours is imported by a string but the lazy public
names, three modules are in the root, and no folder outgrows its budget of lines.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import napari_biomedparse

PACKAGE = "napari_biomedparse"
FOLDER = Path(napari_biomedparse.__file__).parent
FLOORS = (
    {"errors", "version"},
    {"data", "networks"},
    {"engine", "io", "labels", "samples"},
    {"slicing", "viewer"},
    {"pipeline", "training"},
    {"learning", "runs"},
    {"process", "report"},
    {"evaluation"},
    {"cli", "widgets"},
)
WIDGET_FLOORS = (
    {"shared"},
    {"prompts", "weights"},
    {"measure", "proofread", "segment", "training"},
    {"commands", "compare"},
)
ROOT = {"__init__", "errors", "version"}
ONLY_IN = {
    "lightning": {"training"},
    "magicgui": {"viewer", "widgets"},
    "napari": {"viewer", "widgets"},
    "qtpy": {"viewer", "widgets"},
    "superqt": {"viewer", "widgets"},
    "typer": {"cli"},
}
TENSORS = {"ftfy", "numpy", "tokenizers", "torch"} | sys.stdlib_module_names
"""All that the networks themselves may import, their parts and their prompts."""
BUDGET = {
    "networks": 4_316,
    "widgets": 8_833,
    "io": 6_670,
    "cli": 2_013,
    "training": 2_715,
    "runs": 3_003,
    "pipeline": 2_060,
    "process": 1_794,
    "labels": 1_779,
    "data": 1_466,
    "slicing": 1_018,
    "viewer": 995,
    "engine": 542,
    "learning": 1_001,
    "samples": 760,
    "report": 950,
    "evaluation": 1_429,
}
BUDGET_OF_OTHERS = 1_000
BUDGET_OF_ALL = 41_467
BY_STRING = {"__import__", "import_module", "run_module"}


def name_of(path: Path) -> str:
    """Dotted name of a file below the package, without the package: "io.files"."""
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts)


SOURCES = {name_of(p): p.read_text("utf-8") for p in sorted(FOLDER.rglob("*.py"))}


def imports_of(source: str, modules: set[str]) -> Iterator[str]:
    """Yield what a source imports anywhere; ours as in `modules`, if it is there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.level:
                names = [f"{PACKAGE}.<relative import>"]
        else:
            continue
        for name in names:
            yield _module(name, modules) if name.startswith(PACKAGE) else name


def _module(name: str, modules: set[str]) -> str:
    """Return the module of ours that an imported name is, or lives in."""
    inner = name.removeprefix(PACKAGE).lstrip(".")
    for candidate in (inner, inner.rpartition(".")[0]):
        for module in (candidate, f"{candidate}.__init__".lstrip(".")):
            if module in modules:
                return f"{PACKAGE}.{module}"
    return f"{PACKAGE}.{inner}"


def floor_of(module: str, floors: tuple[set[str], ...]) -> int | None:
    """Return the floor on which a module's folder stands; None without one."""
    first = module.partition(".")[0]
    return next((i for i, floor in enumerate(floors) if first in floor), None)


def violations(module: str, source: str, modules: set[str]) -> list[str]:
    """Say what the imports of a module like "io.files" break."""
    found = []
    floor = floor_of(module, FLOORS)
    if floor is None:
        found.append(f"{module} stands on no floor")
    for name in imports_of(source, modules):
        first, _, inner = name.partition(".")
        if first != PACKAGE:
            folder = module.partition(".")[0]
            if folder not in ONLY_IN.get(first, {folder}):
                found.append(f"{module} imports {first}")
            if _is_tensors(module) and first not in TENSORS:
                found.append(f"{module} imports {first}")
            continue
        target = floor_of(inner, FLOORS)
        if inner.partition(".")[0] == module.partition(".")[0]:
            if module.startswith("widgets."):
                found += _widget_violation(module, inner)
        elif floor is not None and (target is None or target >= floor):
            found.append(f"{module} does not import downwards: {name}")
    return found


def _is_tensors(module: str) -> bool:
    return module.startswith("networks.") and module.count(".") > 1


def _widget_violation(module: str, target: str) -> list[str]:
    mine, other = (name.split(".")[1] for name in (module, target))
    here, there = (floor_of(name, WIDGET_FLOORS) for name in (mine, other))
    below = here is not None and there is not None and there < here
    return [] if below or mine == other else [f"{module} imports {target}"]


def circle(sources: dict[str, str]) -> list[str]:
    """Return modules that import each other in a circle; empty if there is none."""
    modules = set(sources)
    graph = {
        module: {
            name.removeprefix(f"{PACKAGE}.")
            for name in imports_of(source, modules)
            if name.startswith(PACKAGE)
        }
        for module, source in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def strings_that_import(source: str, modules: set[str]) -> list[str]:
    """Return what a source imports by a string, or names as a module in one."""
    tree = ast.parse(source)
    documents = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.alias):
            name = getattr(node, "id", getattr(node, "attr", getattr(node, "name", "")))
            if name in BY_STRING:
                found.append(name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documents:
                dotted = re.findall(rf"\b{PACKAGE}\.([\w.]+)", node.value)
                named = [_module(f"{PACKAGE}.{name}", modules) for name in dotted]
                known = {f"{PACKAGE}.{module}" for module in modules}
                found += [name for name in named if name in known]
    return found


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "__init__"])
def test_imports_go_down(module: str) -> None:
    assert violations(module, SOURCES[module], set(SOURCES)) == []


def test_there_is_no_circle() -> None:
    assert circle(SOURCES) == []


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_imported_by_a_string(module: str) -> None:
    assert strings_that_import(SOURCES[module], set(SOURCES)) == []


def test_the_root_holds_three_modules() -> None:
    assert {module for module in SOURCES if "." not in module} == ROOT


def test_each_folder_says_what_lives_there() -> None:
    for folder in {path.parent for path in FOLDER.rglob("*.py")}:
        text = (folder / "__init__.py").read_text("utf-8")
        assert (ast.get_docstring(ast.parse(text)) or "").count(". ") < 3, folder
        assert ast.get_docstring(ast.parse(text)), folder


def test_no_folder_outgrows_its_budget() -> None:
    lines: dict[str, int] = {}
    for module, source in SOURCES.items():
        folder = module.partition(".")[0]
        lines[folder] = lines.get(folder, 0) + source.count("\n")
    over = {
        folder: count
        for folder, count in lines.items()
        if count > BUDGET.get(folder, BUDGET_OF_OTHERS)
    }
    assert over == {}
    assert sum(lines.values()) <= BUDGET_OF_ALL


MODULES = {
    "data.volume",
    "io.files",
    "networks.v2.decoder",
    "pipeline.loop",
    "runs.run",
}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("io.files", "import napari_biomedparse.pipeline.loop"),
        ("io.files", "from napari_biomedparse.pipeline import loop"),
        ("io.files", "def f():\n    from napari_biomedparse.runs.run import Run"),
        ("io.files", "if TYPE_CHECKING:\n    from napari_biomedparse.runs import run"),
        ("io.files", "from napari_biomedparse import open_volume"),
        ("io.files", "from . import zarr"),
        ("io.files", "from napari_biomedparse.labels.measure import measure_objects"),
        ("pipeline.loop", "from qtpy.QtCore import QObject"),
        ("slicing.read", "import napari.layers"),
        ("pipeline.loop", "import typer"),
        ("evaluation.run", "import lightning"),
        ("networks.v2.decoder", "import scipy.ndimage"),
        ("networks.v2.decoder", "from napari_biomedparse.data.volume import Volume"),
        ("cli.segment", "from napari_biomedparse.widgets.shared import form"),
        ("widgets.shared.form", "import napari_biomedparse.widgets.segment.form"),
        ("attic.things", "import numpy"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert violations(module, source, MODULES)


def test_right_imports_pass() -> None:
    below = "import numpy\nfrom napari_biomedparse.errors import FormatError\n"
    beside = "from napari_biomedparse.io.formats.npz import open_npz\n"
    assert violations("io.files", below + beside, MODULES) == []
    assert violations("networks.v2.decoder", "import torch.nn\n" + below, MODULES) == []
    widget = "import qtpy, napari.layers\nimport napari_biomedparse.widgets.shared.form"
    assert violations("widgets.segment.widget", widget, MODULES) == []


def test_a_circle_is_found_also_of_types_alone() -> None:
    one = "from napari_biomedparse.runs.two import Two"
    two = "if TYPE_CHECKING:\n    from napari_biomedparse.runs import one"
    assert set(circle({"runs.one": one, "runs.two": two})) == {"runs.one", "runs.two"}
    assert circle({"runs.one": one, "runs.two": "import numpy"}) == []


@pytest.mark.parametrize(
    "source",
    [
        "from importlib import import_module",
        "importlib.import_module(name)",
        "COMMAND = (python, '-m', 'napari_biomedparse.runs.run')",
    ],
)
def test_an_import_by_a_string_is_found(source: str) -> None:
    assert strings_that_import(source, MODULES)
