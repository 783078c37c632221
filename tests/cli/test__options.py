"""Options of commands say what the options of the package say."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Annotated, Any

import pytest
import typer

from napari_biomedparse.cli import app
from napari_biomedparse.cli._options import (
    FINE,
    described,
    slice_range,
    takes_options,
    to_number,
)
from napari_biomedparse.cli.evaluate import evaluate
from napari_biomedparse.cli.finetune import finetune
from napari_biomedparse.cli.segment import segment
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import OptionError
from napari_biomedparse.training.options import FinetuneOptions


@takes_options(
    SegmentOptions,
    common=("modality",),
    without=("region",),
    flags={"seed": "number"},
)
def command(name: str, *, options: SegmentOptions, last: bool = False) -> None:
    """Return nothing, but raise what it was given.

    Parameters
    ----------
    axis
        Which axis.
    """
    raise LookupError(name, options, last)


def made(given: Any, name: str) -> Any:
    """What typer makes a parameter's option of."""
    (info,) = inspect.signature(given).parameters[name].annotation.__metadata__
    assert isinstance(info, typer.models.ParameterInfo)
    return info


def test_help_and_choices_are_those_of_the_field() -> None:
    modality, seed = made(command, "modality"), made(command, "number")
    assert modality.metavar == "KIND" and "ct-lung" in modality.help
    assert modality.rich_help_panel is None and seed.rich_help_panel == FINE
    assert "One of" not in seed.help and "same seed" in seed.help
    assert made(described(command), "axis").help == "Which axis."
    assert {"region", "seed", "options"}.isdisjoint(
        inspect.signature(command).parameters
    )


def test_the_command_gets_the_options() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in ("name", "last")
    }
    with pytest.raises(LookupError) as caught:
        command(name="a", last=True, **defaults)
    assert caught.value.args == ("a", SegmentOptions(), True)
    given = {
        "slices": "1:3",
        "axis": "2",
        "tile": "512",
        "batch_size": "4",
        "number": 5,
    }
    with pytest.raises(LookupError) as caught:
        command(name="a", last=True, **defaults | given | {"number": 5})
    assert caught.value.args[1] == SegmentOptions(
        slices=(1, 3), axis=2, tile=512, batch_size=4, seed=5
    )
    with pytest.raises(OptionError, match="axis"):
        command(name="a", last=True, **defaults | {"axis": "w"})


@pytest.mark.parametrize(
    ("given", "options", "renamed", "without"),
    [
        (segment, SegmentOptions, {}, set()),
        (evaluate, SegmentOptions, {}, {"region", "axes", "voxel_size"}),
        (finetune, FinetuneOptions, {"prompts": "prompts_a_batch"}, set()),
    ],
)
def test_a_command_has_all_options_with_their_defaults(
    given: Any, options: type, renamed: dict[str, str], without: set[str]
) -> None:
    parameters = inspect.signature(given).parameters
    for item in fields(options):  # type: ignore[arg-type]
        if item.name in without:
            assert item.name not in parameters
            continue
        default = parameters[renamed.get(item.name, item.name)].default
        known = item.default
        assert default == (",".join(known) if isinstance(known, tuple) else known)


def test_numbers_and_words() -> None:
    assert [to_number(text) for text in ("1", "nuclei", "0.5")] == [1, "nuclei", "0.5"]


@pytest.mark.parametrize("text", ["", "3", "a:4", "1:", "-1:4", "1:2:3"])
def test_what_is_not_a_range_of_slices(text: str) -> None:
    assert slice_range(" 1 : 4") == (1, 4)
    with pytest.raises(OptionError, match="10:20"):
        slice_range(text)


def test_texts_and_metavars_are_those_of_the_docstring() -> None:
    def command(
        files: list[str],
        *,
        output: str,
        dry_run: bool = False,
        window: bool = True,
        count: Annotated[int, typer.Option(min=1)] = 1,
        hidden: Annotated[bool, typer.Option("--old", hidden=True)] = False,
    ) -> None:
        """Do things.

        Twice.

        Parameters
        ----------
        files : IN...
            What to do
            them with.
        output : OUT
            Where.
        dry_run
            Do nothing.
        window
            Show.
        count
            How often.
        """

    command = described(command)
    assert command.__doc__ == "Do things.\n\nTwice."
    files = made(command, "files")
    assert isinstance(files, typer.models.ArgumentInfo)
    assert (files.metavar, files.help) == ("IN...", "What to do them with.")
    found = [made(command, name) for name in ("output", "dry_run", "window", "count")]
    assert [one.help for one in found] == [
        "Where.",
        "Do nothing.",
        "Show.",
        "How often.",
    ]
    assert [one.param_decls for one in found] == [
        ("--output", "-o"),
        ("--dry-run",),
        (),
        (),
    ]
    assert found[-1].min == 1
    assert made(command, "hidden").hidden


@pytest.mark.parametrize(
    "callback",
    [one.callback for one in app.registered_commands],
    ids=lambda f: f.__name__,
)
def test_every_argument_of_every_command_is_explained(callback: Any) -> None:
    assert "Parameters" not in callback.__doc__
    for name in inspect.signature(callback).parameters:
        assert made(callback, name).help or made(callback, name).hidden, name
