"""The command `vocabulary`."""

from __future__ import annotations

from typer.testing import CliRunner

from napari_biomedparse.cli import app


def test_prompts_of_a_modality_with_a_word() -> None:
    found = CliRunner().invoke(app, ["vocabulary", "KIDNEY", "--modality", "ct"])
    lines = found.output.splitlines()
    assert "CT imaging of left kidney" in lines
    assert all("kidney" in line and line.startswith("CT") for line in lines)


def test_an_unknown_modality_is_refused() -> None:
    found = CliRunner().invoke(app, ["vocabulary", "--modality", "x-ray"])
    assert found.exit_code == 2
    assert "x-ray" in found.output
