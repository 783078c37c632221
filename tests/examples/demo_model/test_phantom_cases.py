"""Phantoms as training cases, and the prompts that are asked about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantom_cases import ask_about_phantoms, make_cases, to_case

from napari_biomedparse.networks.blocks.tokenizer import END_ID, START_ID
from napari_biomedparse.samples import KINDS, make_phantom


def test_every_target_is_asked_for_and_something_that_is_nowhere() -> None:
    for seed in range(200):
        asked = ask_about_phantoms(np.random.default_rng(seed))
        answers = [(k, v) for q in asked for k, v in q.answers.items()]
        for kind, targets in KINDS.items():
            assert {(kind, i + 1) for i in range(len(targets))} <= set(answers)
        assert any(not q.answers for q in asked)
        for q in asked:
            assert q.ids[0] == START_ID and q.ids[-1] == END_ID


def test_a_phantom_becomes_a_case_without_loss(tmp_path: Path) -> None:
    phantom = make_phantom("light-sheet", 3, shape=(4, 64, 64))
    case = to_case(phantom)
    for label, objects in enumerate(phantom.objects.values(), start=1):
        np.testing.assert_array_equal(
            np.where(case.labels == label, case.objects, 0), objects
        )


@pytest.mark.slow
def test_cases_are_kept_and_read_again(tmp_path: Path) -> None:
    first, again = make_cases(tmp_path, 3, 0), make_cases(tmp_path, 3, 0)
    assert {case.kind for case in first} == set(KINDS)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.objects, b.objects)
