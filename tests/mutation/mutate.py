"""Count how many small changes of a module its own tests notice; see README.md here.

Cosmic Ray makes the changes (``pip install cosmic-ray``). Each is tested in a fork of
this process, which has the heavy packages imported already and is given the changed
source in place of the file: nothing in the work tree is touched.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib.util
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis import settings

ROOT = Path(__file__).parents[2]
PACKAGE = "napari_biomedparse"
TESTS = {
    "slicing.geometry": ["slicing/test_geometry.py", "pipeline/test_tiles.py"],
    "labels.resolve": [
        "labels/test_resolve.py",
        "labels/test_resolve_overlaps.py",
    ],
    "evaluation.metrics": ["evaluation/test_metrics.py"],
    "io.guards.pickles": [
        "io/guards/test_pickle_values.py",
        "io/guards/test_pickles.py",
    ],
    "io.durable": ["io/test_durable.py"],
    "io.inputs": ["io/test_identity.py", "io/test_inputs.py"],
    "runs.manifest": ["runs/test_manifest.py"],
    "runs.folder": ["runs/test_folder.py"],
    "runs.blocks": ["runs/test_blocks.py"],
}
"""The tests of a module; those of the whole path would notice more and take longer."""
HEAVY = ("numpy", "torch", "zarr", "dask.array", "scipy.ndimage", "qtpy")
QUIET = ("-x", "-q", "-p", "no:cacheprovider")


class Mutant(NamedTuple):
    """A changed source, and the operator and its place that changed it."""

    operator: str
    occurrence: int
    source: str


def find_mutants(source: str) -> Iterator[Mutant]:
    """Yield each change that does more than change an annotation."""
    seen = {_meaning(source)}
    for name in sorted(operator_names()):
        if get_operator(name).arguments():
            continue
        for occurrence in itertools.count():
            try:
                changed = mutate_code(source, get_operator(name)(), occurrence)
                if changed is None:
                    break
                meaning = _meaning(changed)
            except (AttributeError, SyntaxError):  # Cosmic Ray's limits
                continue
            if meaning not in seen:
                seen.add(meaning)
                yield Mutant(name, occurrence, changed)


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


class _Changed(SourceFileLoader):
    """Loads a module from a changed source."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        super().__init__(name, str(path))
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        code = compile(self.source, self.path, "exec", dont_inherit=True)
        assert isinstance(code, CodeType)
        return code


class _Finder:
    """Finds one module as `_Changed`."""

    def __init__(self, loader: _Changed) -> None:
        self.loader = loader

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.loader.name:
            return None
        return importlib.util.spec_from_file_location(
            name, self.loader.path, loader=self.loader
        )


def is_noticed(module: str, path: Path, source: str, seconds: float) -> str:
    """Test a source in a fork: "killed", "survived" or "timeout" (noticed, too)."""
    pid = os.fork()
    if pid == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        loader = _Changed(f"{PACKAGE}.{module}", path, source)
        sys.meta_path.insert(0, _Finder(loader))
        tests = [str(ROOT / "tests" / name) for name in TESTS[module]]
        with contextlib.suppress(BaseException):
            os._exit(int(pytest.main([*QUIET, *tests])))
        os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "timeout"


def difference(old: str, new: str) -> str:
    """Return the changed lines."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def main() -> None:
    """Print the survivors and the score of each module, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--sample", type=int, help="so many changes a module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path.insert(0, str(ROOT / "src"))
    settings.register_profile("quick", max_examples=15, database=None, deadline=None)
    settings.load_profile("quick")
    for name in HEAVY:
        importlib.import_module(name)
    report = {}
    for module in args.modules:
        path = ROOT / "src" / PACKAGE / f"{module.replace('.', '/')}.py"
        source = path.read_text("utf-8")
        began = time.monotonic()
        if is_noticed(module, path, source, 600) != "survived":
            sys.exit(f"{module}: its tests fail as it is")
        limit = 10 + 5 * (time.monotonic() - began)
        mutants = list(find_mutants(source))
        count = len(mutants)
        if args.sample and args.sample < count:
            mutants = random.Random(args.seed).sample(mutants, args.sample)
        found = {"killed": 0, "timeout": 0, "survived": 0}
        left = []
        for mutant in mutants:
            result = is_noticed(module, path, mutant.source, limit)
            found[result] += 1
            if result == "survived":
                change = difference(source, mutant.source)
                left.append(f"{mutant.operator} {mutant.occurrence}\n{change}")
                print(f"{module} {left[-1]}", flush=True)
        score = 1 - found["survived"] / len(mutants)
        print(
            f"{module}: {found} of {len(mutants)} ({count} in all), score {score:.3f}",
            flush=True,
        )
        report[module] = {"all": count, **found, "score": score, "survivors": left}
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
