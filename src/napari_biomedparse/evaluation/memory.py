"""Peak memory of a piece of work."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path

import torch

MIB = 2**20
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures peak memory in a ``with`` block, in MiB.

    `host_mib` is resident memory of this process. Where the system cannot start a new
    measurement (not Linux), it is the peak since the process began; NaN on Windows.
    `device_mib` is memory allocated on the current CUDA device; NaN without one.
    """

    host_mib = math.nan
    device_mib = math.nan

    def __enter__(self) -> PeakMemory:
        """Start a new measurement."""
        with contextlib.suppress(OSError):
            _RESET.write_text("5")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *error: object) -> None:
        """Read the peaks."""
        self.host_mib = _host_peak()
        if torch.cuda.is_available():
            self.device_mib = torch.cuda.max_memory_allocated() / MIB


def _host_peak() -> float:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)
