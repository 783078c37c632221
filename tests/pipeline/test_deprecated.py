"""Names of earlier versions warn and do the same as before."""

from __future__ import annotations

import numpy as np
import pytest

import napari_biomedparse
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.segment import segment

VALUES = np.random.default_rng(0).integers(0, 255, (3, 9, 10, 8), dtype=np.uint8)


def _film() -> napari_biomedparse.Volume:
    ones, zeros = (1.0,) * 4, (0.0,) * 4
    axes = ("t", "z", "y", "x")
    return napari_biomedparse.Volume(VALUES, axes, ones, ("pixel",) * 4, zeros)


def test_a_series(tiny_model: BiomedParse) -> None:
    with pytest.warns(DeprecationWarning, match="segment_series is now segment"):
        old = napari_biomedparse.segment_series(_film(), "liver", tiny_model, time=1)
    new = segment(_film(), "liver", tiny_model, time=(1, 2))
    assert old.labels.shape == (1, 9, 10, 8)
    np.testing.assert_array_equal(old.labels, new.labels)
    np.testing.assert_array_equal(old.existence, new.existence)


def test_a_consensus(tiny_model: BiomedParse) -> None:
    with pytest.warns(DeprecationWarning, match="consensus=True"):
        old = napari_biomedparse.segment_consensus(VALUES[0], "liver", tiny_model)
    new = segment(VALUES[0], "liver", tiny_model, consensus=True)
    np.testing.assert_array_equal(old.labels, new.labels)
    with pytest.warns(DeprecationWarning, match="Consensus is now Segmentation"):
        from napari_biomedparse.pipeline.deprecated import Consensus
    assert isinstance(old, Consensus)
