"""Suggested prompts: complete, fit to be used, and by modality."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_biomedparse.data.options import MODALITIES
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.vocabulary import _targets, suggested_prompts
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.blocks.tokenizer import tokenize


def test_every_target_of_the_list_is_in_a_prompt_of_its_modality() -> None:
    prompts = suggested_prompts()
    for modality, regions in _targets().items():
        own = [prompt for prompt in prompts if prompt.startswith(modality)]
        for target in (t for targets in regions.values() for t in targets):
            assert any(target in prompt for prompt in own), target


def test_the_list_is_the_one_of_the_reference(shared: Path) -> None:
    known = json.loads((shared / "reference" / "vocabulary.json").read_text("utf-8"))
    assert known["targets"] == _targets()


def test_prompts_are_fit_to_be_used() -> None:
    prompts = suggested_prompts()
    assert parse_prompts(list(prompts)).texts == prompts
    assert not any(tokenize(prompt).truncated for prompt in prompts)
    assert "CT imaging of spleen in the abdomen" in prompts
    assert "Light-sheet microscopy imaging of nuclei in brain" in prompts


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_modality_of_the_options_has_some(modality: str) -> None:
    assert suggested_prompts(modality)
    if modality.startswith("ct"):
        assert {p.split()[0] for p in suggested_prompts(modality)} == {"CT"}


def test_an_unknown_modality_is_named() -> None:
    with pytest.raises(OptionError, match="x-ray"):
        suggested_prompts("x-ray")
