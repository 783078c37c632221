"""Devices that train together make the steps that one would make of their batches."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.data_folder import write_folder

from napari_biomedparse.errors import DeviceError
from napari_biomedparse.networks.checkpoint import read_checkpoint
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.fit import share
from napari_biomedparse.training.folder import BEST, HELD_OUT, LAST, LOG
from napari_biomedparse.training.options import FinetuneOptions

OPTIONS = FinetuneOptions(
    epochs=2, batch_size=5, prompts=2, learning_rate=2e-3, save_every=2
)
SCRIPT = """
import os, sys
import torch
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.options import FinetuneOptions

torch.set_num_threads(1)
options = FinetuneOptions(
    epochs=2, batch_size=5, prompts=2, learning_rate=2e-3, save_every=2
)
seen = []
done = finetune(
    sys.argv[1], sys.argv[2], "tiny", options, device="cpu", devices=2,
    on_progress=seen.append,
)
left = [name for name in ("LOCAL_RANK", "WORLD_SIZE") if name in os.environ]
print(done.step, seen[-1].steps, left, torch.distributed.is_initialized())
"""


def test_two_make_the_steps_of_one_with_twice_the_batches(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    several = tmp_path / "several"
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, str(script), str(data), str(several)],
        capture_output=True,
        text=True,
        check=True,
        env=clean,
    )
    assert done.stdout == "4 4 [] False\n"
    assert done.stderr == ""
    one = tmp_path / "one"
    finetune(data, one, "tiny", replace(OPTIONS, accumulate=2), device="cpu")
    for name in (BEST, LAST):
        found = read_checkpoint(several / name).tensors
        for key, value in read_checkpoint(one / name).tensors.items():
            torch.testing.assert_close(found[key], value, msg=f"{name} {key}")
    alone, together = (_log(folder) for folder in (one, several))
    assert len(alone) == len(together) == 5
    for before, after in zip(alone, together, strict=True):
        assert after["epoch"] == before["epoch"]
        for name in ("loss", *HELD_OUT):
            expected = float(before[name] or "nan")
            assert float(after[name] or "nan") == pytest.approx(
                expected, rel=1e-4, nan_ok=True
            )


def _log(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_devices_that_are_not_there_are_refused() -> None:
    cpu = torch.device("cpu")
    assert share(cpu, 1) == cpu
    with pytest.raises(DeviceError, match=r"9999 devices of type cpu .* has \d+"):
        share(cpu, 9999)
    with pytest.raises(DeviceError, match="0 devices"):
        share(cpu, 0)
    with pytest.raises(DeviceError, match=r"type mps .* has 1"):
        share(torch.device("mps"), 2)


def test_several_graphics_cards_are_not_one_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert share(torch.device("cuda:0"), 2) == torch.device("cuda")
    assert share(torch.device("cuda:1"), 1) == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="cuda:1 is one device"):
        share(torch.device("cuda:1"), 2)
    with pytest.raises(DeviceError, match="has 2"):
        share(torch.device("cuda"), 3)
