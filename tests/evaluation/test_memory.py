"""Peak memory of a piece of work, not of the process's life."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

from napari_biomedparse.evaluation.memory import PeakMemory

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can start anew")
def test_each_measurement_is_its_own() -> None:
    with PeakMemory() as large:
        # From the system itself: numpy may get memory that others have given back.
        with mmap.mmap(-1, 200 * MIB) as fresh:
            np.frombuffer(fresh, np.uint8)[:] = 1
    with PeakMemory() as small:
        pass
    assert large.host_mib > small.host_mib + 150
