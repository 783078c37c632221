"""An option is declared once: what is checked and documented follows from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from napari_biomedparse.data.options import (
    SegmentOptions,
    check_fields,
    documented,
    field_types,
    option,
)
from napari_biomedparse.errors import OptionError
from napari_biomedparse.training.options import FinetuneOptions


@documented
@dataclass(frozen=True)
class Sample:
    """A sample."""

    kind: str = option("a", "Kind", "Which.", choices=("a", "b"))
    number: int | str | None = option(
        None, "Number", "How many.", names=("all",), limits=(1, None)
    )
    share: float = option(0.5, "Share", "How much.", limits=(0.0, 1.0))
    flag: bool | None = option(None, "Flag", "Whether.")
    name: str = option("x", "Name", "Its name.", check=str.lower)
    parts: tuple[str, ...] = option((), "Parts", "Which parts.", check=tuple)

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "c"}, r"Kind \(kind\) is 'c'; choose one of a, b\."),
        ({"kind": None}, "choose one of"),
        ({"kind": ["a"]}, "choose one of"),
        ({"number": 0}, r"Number \(number\) is 0; it must be at least 1\."),
        ({"number": "none"}, "must be one of all, or a whole number, not 'none'"),
        ({"number": 1.0}, "whole number, not 1.0"),
        ({"number": True}, "whole number, not True"),
        ({"share": 1.5}, "is 1.5; it must be between 0.0 and 1.0"),
        ({"share": float("nan")}, "must be between"),
        ({"share": "half"}, "must be a number, not 'half'"),
        ({"share": None}, "must be a number, not None"),
        ({"flag": 1}, "must be True or False, not 1"),
        ({"name": 5}, "must be text, not 5"),
    ],
)
def test_values_that_are_not_allowed(changes: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Sample(**changes)


def test_values_come_into_their_normal_form() -> None:
    made = Sample(name="ABC", parts=["a"], number=np.int64(3), flag=np.True_, share=1)  # type: ignore[arg-type]
    assert (made.name, made.parts, made.number, made.share) == ("abc", ("a",), 3, 1)
    assert Sample(number="all", flag=None).number == "all"


@pytest.mark.parametrize("options", [Sample, SegmentOptions, FinetuneOptions])
def test_the_docstring_is_made_from_the_fields(options: Any) -> None:
    documentation = " ".join(options.__doc__.split())
    for item in fields(options):
        assert f"{item.name} : {item.type}, default: {item.default!r}" in documentation
        assert " ".join(item.metadata["help"].split()) in documentation
    assert set(field_types(options)) == {item.name for item in fields(options)}


@pytest.mark.parametrize("slices", [(1,), (1, 2, 3), "12", 5, (1.0, 2), (True, 2)])
def test_what_is_not_a_range_of_slices(slices: Any) -> None:
    with pytest.raises(OptionError, match="first slice and the one after the last"):
        SegmentOptions(slices=slices)
    assert SegmentOptions(slices=[1, np.int64(2)]).slices == (1, 2)  # type: ignore[arg-type]


def test_unknown_parts_of_the_network_are_refused() -> None:
    assert FinetuneOptions(freeze=["backbone"]).freeze == ("backbone",)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="choose from text, backbone"):
        FinetuneOptions(freeze=("head",))
