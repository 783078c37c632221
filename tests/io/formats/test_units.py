from __future__ import annotations

import pint
import pytest

from napari_biomedparse.io.formats import units
from napari_biomedparse.io.formats.units import to_millimeters, unit_name, unit_symbol


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


def test_every_name_is_pints_and_has_a_symbol_that_leads_back() -> None:
    registry = pint.UnitRegistry()
    for name in units._NAMES:
        assert str(registry.Unit(name)) == name
        assert unit_name(unit_symbol(name)) == name
    assert unit_symbol("furlong") == "pixel"


def test_lengths_in_millimeters() -> None:
    registry = pint.UnitRegistry()
    for name in units._PER_MILLIMETER:
        expected = (3.0 * registry.Unit(name)).to("millimeter").magnitude
        assert to_millimeters(3.0, name) == pytest.approx(expected)
    assert to_millimeters(3.0, "pixel") is None
    assert to_millimeters(3.0, "second") is None
