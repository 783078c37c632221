from __future__ import annotations

import subprocess
import sys

import numpy as np
import pint
import pytest

from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io.formats import units
from napari_biomedparse.io.formats.units import (
    to_millimeters,
    unit_name,
    unit_symbol,
    with_voxel_size,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("um", "micrometer"),
        ("\N{MICRO SIGN}m", "micrometer"),
        ("\N{GREEK SMALL LETTER MU}m", "micrometer"),
        (r"\u00B5m", "micrometer"),
        ("micron", "micrometer"),
        ("microns", "micrometer"),
        ("Micrometre", "micrometer"),
        ("micrometers", "micrometer"),
        ("nm", "nanometer"),
        ("mm", "millimeter"),
        ("Mm", "megameter"),
        ("m", "meter"),
        ("inch", "inch"),
        ("\N{LATIN CAPITAL LETTER A WITH RING ABOVE}", "angstrom"),
        ("s", "second"),
        ("sec", "second"),
        ("us", "microsecond"),
        ("min", "minute"),
        ("pixel", "pixel"),
        ("pixels", "pixel"),
        ("furlong", "pixel"),
        ("", "pixel"),
        (None, "pixel"),
        (7, "pixel"),
    ],
)
def test_unit_names(text: object, name: str) -> None:
    assert unit_name(text) == name


PREFIXES = "yotta exa mega kilo hecto deca deci centi milli micro nano pico femto atto"
NAMES = [
    *(prefix + base for prefix in PREFIXES.split() for base in ("meter", "second")),
    *("meter", "second", "angstrom", "inch", "foot", "yard", "mile", "parsec"),
    *("minute", "hour", "day"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_pints_and_has_a_symbol_that_leads_back(name: str) -> None:
    assert str(pint.UnitRegistry().Unit(name)) == name
    assert unit_name(unit_symbol(name)) == unit_name(name) == name


def test_symbols_are_those_of_ome() -> None:
    names = ["micrometer", "angstrom", "inch", "parsec", "minute", "decasecond"]
    found = [unit_symbol(name) for name in names]
    ring = "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}"
    assert found == ["\N{MICRO SIGN}m", ring, "in", "pc", "min", "das"]
    assert unit_symbol("furlong") == unit_symbol("pixel") == "pixel"


@pytest.mark.parametrize("text", ["9**9**9**9", "2 um", "um*um", "m" * 10**6, "_m"])
def test_what_is_not_a_word_never_gets_to_pint(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "_registry", None)
    assert unit_name(text) == "pixel"


def test_pint_is_imported_when_it_is_needed() -> None:
    code = "import sys, napari_biomedparse.io.files; sys.exit('pint' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lengths_in_millimeters() -> None:
    assert to_millimeters(3.0, "micrometer") == pytest.approx(0.003)
    assert to_millimeters(3.0, "inch") == pytest.approx(76.2)
    assert to_millimeters(3.0, "millimeter") == 3.0
    assert to_millimeters(3.0, "pixel") is None
    assert to_millimeters(3.0, "second") is None


def test_another_voxel_size() -> None:
    units, origin = ("second", *("millimeter",) * 3), (7.0, 2.0, 4.0, 6.0)
    data = np.zeros((2, 3, 4, 5))
    volume = Volume(data, ("t", "z", "y", "x"), (9.0, 1.0, 2.0, 3.0), units, origin)
    found = with_voxel_size(volume, "0.5")
    assert found.spacing == (9.0, 0.5, 0.5, 0.5)
    assert found.units == ("second", *("micrometer",) * 3)
    assert found.origin == (7.0, 1.0, 1.0, 1.0)  # in voxels as before
    for text in ("1,1,1bananas", "1,1,1s"):
        with pytest.raises(OptionError, match="give one of length"):
            with_voxel_size(volume, text)
