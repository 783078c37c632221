"""Messages of the package's errors."""

from __future__ import annotations

import pickle

import pytest

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import OutputError, PromptError


def test_what_a_file_says_does_not_flood_the_message():
    with pytest.raises(PromptError) as caught:
        parse_prompts([["a b"] * 10**5])
    assert len(str(caught.value)) < 2100
    assert str(caught.value).startswith("A prompt must be text, not [")


def test_the_remedy_at_the_end_is_kept_also_across_processes():
    error = OutputError("name " * 1000 + "Choose a shorter one.")
    assert str(error).endswith("Choose a shorter one.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(OutputError("The disk is full.")) == "The disk is full."
