"""The speed benchmark runs as it is and writes what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speed.py"


def test_a_quick_run_writes_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    command = [sys.executable, str(SCRIPT), "--config", "tiny", "--size", "64"]
    command += ["--prompts", "1", "3", "--repeats", "1", "--slices", "2", "--case"]
    done = subprocess.run(
        [*command, "--json", str(out)], capture_output=True, text=True, check=True
    )
    result = json.loads(out.read_text())
    assert "3 prompts, naive" in done.stdout
    for row in result["prompts"].values():
        assert row["gflop"]["naive"] > row["gflop"]["product"] > 0
        for mode in ("product", "naive"):
            stages = row[mode]["stages"]
            for stage in ("text", "backbone", "pixel decoder", "decoder", "mask head"):
                assert stages[stage] > 0, (mode, stage)
            assert row[mode]["memory"]["host"] > 0
        for stage in ("read", "preprocess", "postprocess", "write"):
            assert row["product"]["stages"][stage] > 0, stage
        assert sum(row["naive"]["stages"].values()) < row["naive"]["seconds"]
    assert result["summary"]["volume_63x15"]["ratio"] > 0
    third, whole, original = result["case"].values()
    assert original["times ours"] == original["seconds"] / whole["seconds"] > 0
    assert whole["slices_a_second"] > 0
    assert 0 < whole["first_batch_seconds"] < whole["seconds"]
    assert third["memory"]["host"] > 0
    assert result["ceilings"]["gflop_a_second"] > 0
