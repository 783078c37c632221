"""The script for a GPU runs on a CPU, and runs short of memory there on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_a_run_short_of_memory_halves_its_batch_and_ends(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--config", "tiny"]
    command += ["--size", "64", "--only", "limit", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(out.read_text())
    assert found["limit"]["limit_mib"] < found["limit"]["peak_mib"]
    assert found["limit"]["slices_at_once"] == 2
    assert ["ran out" in line for line in found["limit"]["said"]] == [True]
    assert found["aims"]["same labels, short of memory"][2]
    assert "MISSED" not in done.stdout
