"""Sessions whose model process is a fake one, without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_biomedparse.process import Session
from napari_biomedparse.process.child import COMMAND

FAKE = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def session_that():
    """Make a session by naming what its process does wrong; closed afterwards."""
    made = []

    def make(mode: str) -> Session:
        made.append(Session([*COMMAND[:-1], str(FAKE), mode]))
        return made[-1]

    yield make
    for session in made:
        session.close()
