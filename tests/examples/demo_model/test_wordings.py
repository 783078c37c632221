"""Wordings of the targets: those for testing are not among those for training."""

from __future__ import annotations

import numpy as np
import pytest
from wordings import (
    MODALITIES,
    NAMES,
    TEMPLATES,
    UNSEEN_NAMES,
    UNSEEN_TEMPLATES,
    wording,
)

from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.samples import KINDS, TITLES


def test_unseen_wordings_are_unseen_but_use_known_words() -> None:
    rng = np.random.default_rng(0)
    seen_words = {w for text in (*TEMPLATES, *TITLES.values()) for w in _ids(text)}
    names = [n for ns in (*NAMES.values(), *MODALITIES.values()) for n in ns]
    seen_words |= {w for name in names for w in _ids(name)}
    assert not set(TEMPLATES) & set(UNSEEN_TEMPLATES)
    for kind, targets in KINDS.items():
        for target in targets:
            assert not set(NAMES[target]) & set(UNSEEN_NAMES[target])
            for name in UNSEEN_NAMES[target]:
                assert set(_ids(name)) <= seen_words, name
            assert wording(rng, kind, target, unseen=True)
            seen = {wording(rng, kind, target) for _ in range(60)}
            assert len(seen) > 20
    with pytest.raises(OptionError, match="no wordings"):
        wording(rng, "em", "liver")


def _ids(text: str) -> list[int]:
    tokens = tokenize(text)
    return [int(i) for i in tokens.ids[: tokens.length]]
