"""A report that needs no window, and an estimate of the right size."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_biomedparse.doctor import Estimate, estimate, report
from napari_biomedparse.engine import Engine
from napari_biomedparse.model.biomedparse import BiomedParse
from napari_biomedparse.options import SegmentOptions
from napari_biomedparse.plan import plan_run

GREY = np.random.default_rng(0).integers(0, 255, (12, 40, 40), dtype=np.uint8)


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
        "import sys; from napari_biomedparse.doctor import report; report(); "
        "sys.exit(bool({'napari', 'qtpy', 'PyQt6', 'PySide6'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_or_broken_torch_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("napari_biomedparse.doctor._weights", lambda: iter(()))
    assert "torch cannot be imported" in report()


@pytest.mark.parametrize("lazy", [False, True])
def test_an_estimate_grows_with_the_slices(tiny_model: BiomedParse, lazy: bool) -> None:
    engine = Engine(tiny_model)
    data: Any = da.from_array(GREY, chunks=(1, 40, 40)) if lazy else GREY
    plan = plan_run(data, {300: "liver"}, config=tiny_model.config)
    found = estimate(plan, engine)
    assert found.seconds > 0
    assert found.disk == round(GREY.size * 2 * 4 / 3)
    assert found.device_memory is None
    assert found.memory is None or found.memory > 50e6
    options = SegmentOptions(slices=(3, 4))
    one = estimate(plan_run(data, "liver", options, config=tiny_model.config), engine)
    assert one.seconds < found.seconds


def test_an_estimate_in_words() -> None:
    found = Estimate(5400.0, 2_500_000_000, 7_000_000_000, 300_000_000)
    assert found.describe() == (
        "about 1 h 30 min, 2.5 GB of memory, 7.0 GB on the device, at most 0.30 GB on "
        "disk"
    )
    assert (
        Estimate(3.2, None, None, 10**9).describe().startswith("about 3.2 s, at most")
    )
