"""A report that needs no window."""

from __future__ import annotations

import subprocess
import sys

import pytest

from napari_biomedparse.cli._doctor import report


def test_the_report_names_what_a_bug_report_needs() -> None:
    lines = dict(line.split(": ", 1) for line in report().splitlines())
    for name in ("napari-biomedparse", "Python", "torch", "napari", "zarr", "dask"):
        assert lines[name][0].isdigit(), name
    assert "cpu" in lines["Devices"]
    assert "tiny" in lines["Models"]
    assert lines["Published weights"] in ("downloaded", "not downloaded")
    assert lines["Free disk, here"].endswith(" GB")


def test_the_report_imports_neither_qt_nor_napari() -> None:
    code = (
        "import sys; from napari_biomedparse.cli._doctor import report; report(); "
        "sys.exit(bool({'napari', 'qtpy', 'PyQt6', 'PySide6'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_or_broken_torch_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("napari_biomedparse.cli._doctor._weights", lambda: iter(()))
    assert "torch cannot be imported" in report()
