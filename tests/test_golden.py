"""The quick golden cases; ``python tests/golden.py`` runs all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import golden
import numpy as np
import pytest

QUICK = (
    "pure_*",
    "float_input_check.npz",
    "e2e_float.npz",
    "ct_subvolume.npz",
    "tokenizer.json",
    "state_dict_manifest.json",
    "text_encoder.npz",
    "unit_*.npz",
    "e2e_edge_1slice.npz",
)
"""The end to end case of one slice stands for the others, which take minutes."""


def test_quick_golden_cases_pass(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pattern in QUICK:
        for path in (shared / "reference").glob(pattern):
            shutil.copy(path, tmp_path)
    assert golden.main(tmp_path) == 0, capsys.readouterr().out
    report = capsys.readouterr().out
    assert "FAIL" not in report
    for case in ("tokenizer", "unit_decoder", "e2e_edge_1slice", "pure_instances"):
        assert f"ok   {case}" in report


QUICK_V1 = ("state_dict_manifest.json", "text_encoder.npz", "unit_decoder.npz",
            "companion_0_*", "e2e_small256.npz", "e2e_wide256.npz")  # fmt: skip


def test_quick_golden_cases_of_v1_pass(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pattern in QUICK_V1:
        for path in (shared / "reference_v1").glob(pattern):
            shutil.copy(path, tmp_path)
    assert golden.main(tmp_path) == 0, capsys.readouterr().out
    report = capsys.readouterr().out
    for case in ("state_dict", "unit_decoder reset", "companion_0", "e2e_wide256"):
        assert f"ok   {case}" in report


QUICK_BOLTZ = ("state_dict_manifest_hiera-s.json", "unit_backbone_hiera-s.npz",
               "unit_pixel_decoder_hiera.npz", "unit_[dol]*.npz", "v2_loss.npz",
               "v2_2d_prepare.npz", "v2_2d_rgb.npz")  # fmt: skip


def test_quick_golden_cases_of_boltzformer_and_2d_pass(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pattern in QUICK_BOLTZ:
        for path in (shared / "reference_boltzformer").glob(pattern):
            shutil.copy(path, tmp_path)
    assert golden.main(tmp_path) == 0, capsys.readouterr().out
    report = capsys.readouterr().out
    for case in ("state_dict", "unit_decoder hash", "unit_output", "v2_2d_rgb hash"):
        assert f"ok   {case}" in report


def test_a_folder_without_golden_files_fails(tmp_path: Path) -> None:
    assert golden.main(tmp_path) == 1


def test_wrong_numbers_fail(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = shared / "reference"
    entries = json.loads((reference / "tokenizer.json").read_text(encoding="utf-8"))
    entries[0]["input_ids"][1] += 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(entries), encoding="utf-8")
    with np.load(reference / "unit_pixel_decoder.npz") as file:
        arrays = dict(file)
    arrays["ms1"][0, 0, 0, 0] += 0.01
    np.savez(tmp_path / "unit_pixel_decoder.npz", **arrays)
    assert golden.main(tmp_path) == 1
    report = capsys.readouterr().out
    assert "FAIL tokenizer" in report
    assert "FAIL unit_pixel_decoder ms1" in report
    assert "2 failed" in report
