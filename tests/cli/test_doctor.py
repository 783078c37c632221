"""The command `doctor`, which needs no window."""

from __future__ import annotations

import subprocess
import sys

import pytest

from napari_biomedparse import cli
from napari_biomedparse.cli.doctor import facts


def test_the_report_names_what_a_bug_report_needs() -> None:
    lines = dict(facts())
    for name in ("napari-biomedparse", "Python", "torch", "napari", "zarr", "dask"):
        assert lines[name][0].isdigit(), name
    assert "cpu" in lines["Devices"]
    assert "tiny" in lines["Models"]
    assert lines["Published weights"] in ("downloaded", "not downloaded")
    assert lines["Free disk, here"].endswith(" GB")


def test_the_report_imports_neither_qt_nor_napari() -> None:
    code = (
        "import sys; from napari_biomedparse.cli.doctor import facts; list(facts()); "
        "sys.exit(bool({'napari', 'qtpy', 'PyQt6', 'PySide6'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_or_broken_torch_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(cli.doctor, "_weights", lambda: iter(()))
    assert "torch cannot be imported" in dict(facts())["Devices"]
