"""Each cause of an empty result, made on purpose, is named and can be undone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.report.why_empty import (
    Cause,
    why_empty,
    why_series_empty,
)
from napari_biomedparse.samples import TITLES

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (6, 40, 30), dtype=np.uint8)
NOTHING = np.full((1, 6), 0.01, np.float32)
GOOD = np.full((1, 6), 0.9, np.float32)


def causes(
    volume: Any, prompt: str = "liver", existence: Any = GOOD, **options: Any
) -> tuple[Cause, ...]:
    return why_empty(volume, prompt, SegmentOptions(**options), existence)


def found(causes: tuple[Cause, ...], words: str) -> Cause:
    (cause,) = [cause for cause in causes if words in cause.sentence]
    return cause


def test_in_the_plainest_case_only_the_scores_speak() -> None:
    (cause,) = causes(GREY)
    assert "finds the target (best score 0.90" in cause.sentence
    (cause,) = causes(GREY, existence=NOTHING)
    assert "is sure that no slice shows the target (best score 0.01" in cause.sentence
    assert why_empty(GREY, "liver", SegmentOptions(), NOTHING * np.nan)[0] == Cause(
        "No slice was finished.", "Resume the run."
    )


@pytest.mark.parametrize("brightest", [1, 9])
def test_8_bit_values_that_are_nearly_black(brightest: int) -> None:
    dark = (GREY > 128).astype(np.uint8) * brightest
    first = causes(dark)[0]
    assert "it sees next to nothing" in first.sentence
    assert ("from 0 to 1," in first.sentence) == (brightest == 1)
    assert "Multiply" in first.fix and not first.options


def test_values_from_0_to_1_as_they_are() -> None:
    values = RNG.random((6, 40, 30), np.float32)
    first = causes(values, modality="none")[0]
    assert "from 0 to 1," in first.sentence
    assert first.options == {"modality": "auto"}
    assert len(causes(values, **first.options)) == 1


def test_a_window_that_shows_nothing() -> None:
    values = RNG.integers(4000, 9000, (6, 40, 30)).astype(np.uint16)
    cause = found(causes(values, modality="ct-brain"), "black or white")
    assert cause.options == {"modality": "auto"}
    assert len(causes(values, **cause.options)) == 1
    mask = (GREY > 128).astype(np.uint8) * 255
    assert not found(causes(mask), "black or white").options


@pytest.mark.parametrize(("best", "lower"), [(0.304, 0.3), (0.3, 0.29), (0.11, 0.1)])
def test_a_threshold_above_the_best_score(
    best: float, lower: float, tiny_model: Any
) -> None:
    existence = NOTHING.copy()
    existence[0, 4] = best
    first = causes(GREY, existence=existence)[0]
    assert f"is {best:.2f} ('liver', slice 4), below the threshold" in first.sentence
    assert first.options == {"existence_threshold": lower}


def test_the_lower_threshold_lets_something_through(tiny_model: Any) -> None:
    run = segment(GREY, "liver", tiny_model)
    options = SegmentOptions(existence_threshold=min(1.0, run.existence.max() + 0.01))
    assert not segment(GREY, "liver", tiny_model, options).labels.any()
    cause = found(why_empty(GREY, "liver", options, run.existence), "threshold")
    assert segment(GREY, "liver", tiny_model, **cause.options).labels.any()


@pytest.mark.parametrize(
    ("prompt", "modality", "better"),
    [
        ("CT imaging of the spleen", "mr", "ct"),
        ("Electron microscopy imaging of mitochondria", "ct-lung", "em"),
        ("MRI of the brain", "mr", None),
        ("CT of the lung", "ct-lung", None),
        ("the director's petals", "em", None),
        ("CT and MRI of the brain", "em", None),
    ],
)
def test_grey_levels_of_another_kind_of_image(
    prompt: str, modality: str, better: str | None
) -> None:
    values = RNG.normal(0, 300, (6, 40, 30)).astype(np.float32)
    named = [
        c for c in causes(values, prompt, modality=modality) if "mention" in c.sentence
    ]
    assert [c.options for c in named] == ([{"modality": better}] if better else [])
    eight_bit = causes(GREY, prompt, modality=modality)
    assert not any("mention" in cause.sentence for cause in eight_bit)


def test_hounsfield_units_without_a_window() -> None:
    values = RNG.normal(-400, 400, (6, 40, 30)).astype(np.int16)
    cause = found(causes(values, "CT imaging of the liver"), "Hounsfield")
    assert cause.options == {"modality": "ct"}
    assert not any("mention" in c.sentence for c in causes(values, "liver"))


def test_slices_cut_across_the_planes() -> None:
    cause = found(causes(np.repeat(GREY, 2, axis=1), axis="y"), "cut along y")
    assert cause.options == {"axis": "z"}
    sizes, units = (5.0, 1.0, 1.0), ("micrometer",) * 3
    volume = Volume(GREY, ("z", "y", "x"), sizes, units, (0.0,) * 3)
    cause = found(causes(volume, axis="x"), "voxels are longest")
    assert cause.options == {"axis": "z"}
    assert len(causes(volume)) == 1
    assert len(causes(replace(volume, spacing=(1.0,) * 3), axis="x")) == 1


def test_a_prompt_that_lost_its_end() -> None:
    cause = found(causes(GREY, "cell " * 80), "82 tokens")
    assert "the first 77" in cause.sentence


def test_what_is_too_small() -> None:
    wide = np.broadcast_to(GREY[:, :, :1], (6, 40, 1100)).copy()
    cause = found(causes(wide, tile="none"), "downscaled 2.1 times")
    assert len(causes(wide, **cause.options)) == 1
    cause = found(causes(GREY, minimum_size=9), "fewer than 9 voxels")
    assert cause.options == {"minimum_size": 0}


def test_words_that_the_network_knows() -> None:
    cause = causes(GREY, "CT imaging of spleeen in the abdomen", NOTHING)[-1]
    assert cause.prompts == {1: "CT imaging of spleen in the abdomen"}
    assert "CT imaging of spleen in the abdomen" in cause.fix


def test_all_prompts_are_looked_at() -> None:
    existence = np.array([[0.01, np.nan], [0.02, 0.3]], np.float32)
    found = why_empty(GREY, {3: "liver", 7: "kidney"}, SegmentOptions(), existence)
    assert "0.30 ('kidney', slice 1)" in found[0].sentence


def test_a_model_that_knows_little_says_what() -> None:
    prompts, options = parse_prompts("liver"), SegmentOptions()
    for model in ("demo", "demo 0123456789ab"):
        cause = why_empty(GREY, prompts, options, NOTHING, model=model)[0]
        assert "only 8 targets" in cause.sentence
        assert all(text in cause.sentence for text in TITLES.values())
        series = NOTHING[:, np.newaxis]
        assert why_series_empty([GREY], prompts, options, series, model)[0] == cause
    for other in ("", "v2 0123456789ab", "my_demo.safetensors"):
        assert why_empty(GREY, prompts, options, NOTHING, model=other)[0] != cause


def test_it_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from napari_biomedparse.data.options import SegmentOptions\n"
        "from napari_biomedparse.report.why_empty import why_empty\n"
        "why_empty(np.ones((2, 3, 4)), 'a', SegmentOptions(), np.zeros((1, 2)))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_v1_its_own_size_and_p_count() -> None:
    volume = np.zeros((1, 3000, 2900, 3), np.uint8) + GREY[:1, :1, :1, None]
    of_v1 = {"p_values": {"1": None}, "image_size": 1024}

    def explained(p: float, **options: Any) -> tuple[Cause, ...]:
        scores = np.full((1, 1), p, np.float32)
        chosen = SegmentOptions(**options)
        return why_empty(volume, "liver", chosen, scores, parameters=of_v1)

    size, last = explained(np.nan, tile="none")
    assert "downscaled 2.9 times" in size.sentence
    assert size.options == {"tile": 1024, "pixel_size": None}
    assert last.sentence == "The network draws no mask."
    assert explained(0.02, p_threshold=0.0) == (last,)
    dropped, rest = explained(0.023, p_threshold=0.05)
    assert "best p score is 0.023" in dropped.sentence and rest == last
    assert dropped.options == {"p_threshold": 0.02}
    assert explained(0.0, p_threshold=0.05)[0].options == {"p_threshold": 0.0}
