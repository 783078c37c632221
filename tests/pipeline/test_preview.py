"""The slice in view is what the run gives for it, and costs little a second time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.preview import preview
from napari_biomedparse.pipeline.segment import segment

PROMPTS = {2: "liver", 5: "mitochondria in electron microscopy", 9: "a b c"}


@pytest.fixture(scope="module")
def volume() -> Any:
    return np.random.default_rng(0).integers(0, 255, (6, 70, 50), dtype=np.uint8)


@pytest.mark.parametrize("index", [0, 3, 5])
@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(),
        SegmentOptions(axis="y", existence_threshold=0.4),
        SegmentOptions(tile=32, batch_size=3),
    ],
)
def test_it_is_that_slice_of_the_run(
    volume: Any, tiny_model: Any, index: int, options: SegmentOptions
) -> None:
    plan = plan_run(volume, PROMPTS, options, config=tiny_model.config)
    found, _ = preview(plan, Engine(tiny_model), index)
    one = (index, index + 1)
    run = segment(volume, PROMPTS, tiny_model, options, slices=one)
    axis = plan.geometry.axis
    expected = run.labels.take([index], axis=axis)
    assert expected.any()
    np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_array_equal(found.existence[:, 0], run.existence[:, index])
    assert (found.start, found.stop, found.axis) == (*one, axis)


def test_probabilities_are_those_the_labels_come_from(
    volume: Any, tiny_model: Any
) -> None:
    options = SegmentOptions(existence_threshold=0.0)
    plan = plan_run(volume, "liver", options, config=tiny_model.config)
    found, probabilities = preview(plan, Engine(tiny_model), 2)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (1, 70, 50)
    assert 0 < (probabilities > 0.5).mean() < 1
    np.testing.assert_array_equal(probabilities > 0.5, found.labels == 1)


@pytest.mark.parametrize("tile", ["none", 32])
def test_another_prompt_costs_only_the_decoder(
    volume: Any, tiny_model: Any, monkeypatch: pytest.MonkeyPatch, tile: Any
) -> None:
    looks, look = [], Engine._encode_image
    monkeypatch.setattr(
        Engine, "_encode_image", lambda self, x: looks.append(len(x)) or look(self, x)
    )
    engine = Engine(tiny_model)
    for prompt in ("liver", "kidney"):
        options = SegmentOptions(tile=tile)
        plan = plan_run(volume, prompt, options, config=tiny_model.config)
        preview(plan, engine, 2)
        assert len(looks) == len(plan.tiles.corners)


def test_no_such_slice(volume: Any, tiny_model: Any) -> None:
    plan = plan_run(volume, "liver", config=tiny_model.config)
    with pytest.raises(OptionError, match="no slice 6 along axis z; choose 0 to 5"):
        preview(plan, Engine(tiny_model), 6)
