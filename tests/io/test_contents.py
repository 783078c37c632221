from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_biomedparse.data.volume import Volume
from napari_biomedparse.io.contents import Contents, label_contents

if TYPE_CHECKING:
    import pytest


VOLUME = Volume(
    np.zeros((3, 4), np.uint8),
    ("y", "x"),
    (1.0, 1.0),
    ("pixel", "pixel"),
    (0.0, 0.0),
    "a",
    Path("a.zarr"),
)


def test_names_become_prompts() -> None:
    known = {"text_prompts": {"2": "b", 1: "a"}, "instance_label": 1}
    contents = label_contents(VOLUME, known)
    prompts = contents.prompts
    assert prompts is not None
    assert (prompts.ids, prompts.texts, prompts.instance) == ((1, 2), ("a", "b"), True)
    (labels,) = contents.labels
    assert (labels.texts, labels.instance, labels.owners) == ({1: "a", 2: "b"}, 1, None)


def test_names_that_are_no_prompts(caplog: pytest.LogCaptureFixture) -> None:
    assert label_contents(VOLUME, {}).prompts is None
    known = {"text_prompts": {1: "a [SEP] b"}}
    assert label_contents(VOLUME, known).prompts is None
    assert "a.zarr" in caplog.text


def test_an_empty_file_has_nothing() -> None:
    assert Contents() == Contents((), (), None)
