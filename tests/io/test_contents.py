from __future__ import annotations

from typing import TYPE_CHECKING

from napari_biomedparse.io.contents import Contents, as_prompts

if TYPE_CHECKING:
    import pytest


def test_names_become_prompts() -> None:
    prompts = as_prompts({2: "b", 1: "a"}, instance=True, what="a file")
    assert prompts is not None
    assert (prompts.ids, prompts.texts, prompts.instance) == ((1, 2), ("a", "b"), True)


def test_names_that_are_no_prompts(caplog: pytest.LogCaptureFixture) -> None:
    assert as_prompts({}, instance=False, what="a file") is None
    assert as_prompts({1: "a [SEP] b"}, instance=False, what="a.zarr") is None
    assert "a.zarr" in caplog.text


def test_an_empty_file_has_nothing() -> None:
    assert Contents() == Contents((), (), None)
