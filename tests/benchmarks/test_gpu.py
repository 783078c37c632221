"""The script for a GPU runs on a CPU, and runs short of memory there on purpose."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import gpu

    return gpu


def test_a_run_short_of_memory_halves_its_batch_and_ends(gpu: Any) -> None:
    found = gpu.limit(Namespace(device="cpu", config="tiny", size=64))
    assert found["limit_mib"] < found["peak_mib"]
    assert found["slices_at_once"] == 2
    assert ["ran out" in line for line in found["said"]] == [True]
    rows = gpu.aims({"limit": found})
    assert [met for _, _, met in rows.values()] == [True, True]


def test_aims_that_are_missed_are_told(gpu: Any) -> None:
    speed = {
        "slices": 63,
        "prompts": {"1": {"product": {"seconds": 0.3}}},
        "summary": {"naive_over_product": {"1": 7.5}, "marginal_prompt_share": 0.02},
        "second_prompt": {"share": 0.05},
        "case": {
            "21 slices": {"memory": {"device": 4000}},
            "63 slices": {"memory": {"device": 4500}, "slices_a_second": 50.0},
        },
    }
    rows = gpu.aims({"speed": speed, "limit": {"failed": 1}})
    missed = [name for name, (_, _, met) in rows.items() if not met]
    assert missed == [
        "times the naive mode, 1 prompts",
        "slices a second, 1 prompt",
        "memory of 63 over 21 slices",
    ]


def test_each_part_that_was_asked_for_is_run_by_itself(
    gpu: Any, tmp_path: Path
) -> None:
    args = Namespace(
        device="cpu", config="tiny", size=64, repeats=1, prompts=["1"],
        data=tmp_path, only=("limit", "startup"),
    )  # fmt: skip
    commands = gpu.commands(args, tmp_path)
    assert list(commands) == ["limit", "startup"]
    for part, (python, script, *rest) in commands.items():
        assert python == sys.executable
        assert Path(script).is_file()
        assert rest[-2:] == ["--json", f"{tmp_path}/{part}.json"]
