"""Options of commands say what the options of the package say."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import typer

from napari_biomedparse.cli._options import FINE, option
from napari_biomedparse.cli.finetune import finetune
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.training.options import FinetuneOptions


def test_help_and_choices_are_those_of_the_field() -> None:
    made = option(SegmentOptions, "modality", "--kind", fine=True, metavar="KIND")
    assert isinstance(made, typer.models.OptionInfo)
    assert made.rich_help_panel == FINE
    assert made.metavar == "KIND" and "ct-lung" in made.help
    assert "One of" not in option(SegmentOptions, "seed").help


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="unpack"):
        option(SegmentOptions, "sead")


def test_defaults_of_finetune_are_those_of_its_options() -> None:
    names = {"prompts_a_batch": "prompts"}
    known = {item.name: item.default for item in fields(FinetuneOptions)}
    given = {
        names.get(name, name): parameter.default
        for name, parameter in inspect.signature(finetune).parameters.items()
        if names.get(name, name) in known and name != "prompts"
    }
    assert len(given) >= 15
    freeze = {"freeze": ",".join(known["freeze"])}
    assert given == {name: (known | freeze)[name] for name in given}
