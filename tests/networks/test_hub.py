from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import COMMIT, TOKEN, FakeHub, connected, serving
from huggingface_hub import constants

from napari_biomedparse.errors import CheckpointError
from napari_biomedparse.networks.catalogue import HubFile
from napari_biomedparse.networks.hub import check, fetch, find_cached

CONTENT = os.urandom(300_000)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub("somebody/Something", "weights.ckpt", CONTENT)
    with connected(hub, tmp_path / "cache", monkeypatch):
        yield hub


@pytest.fixture
def file(hub: FakeHub) -> HubFile:
    return HubFile(
        hub.repository, hub.name, COMMIT, len(CONTENT), hub.sha256, "For research only."
    )


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client try again at once."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_first_use_downloads_and_later_ones_need_no_network(
    hub: FakeHub, file: HubFile, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_cached(file, file.name) is None

    path = fetch(file)

    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(constants.HF_HUB_CACHE)
    assert [r.getMessage() for r in caplog.records].count("For research only.") == 1

    hub.requests.clear()
    caplog.clear()
    assert fetch(file) == fetch(file, offline=True) == path
    assert find_cached(file, file.name) == path
    assert hub.requests == []
    assert caplog.records == []


def test_progress(file: HubFile) -> None:
    seen: list[tuple[int, int]] = []
    fetch(file, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_licence_can_be_declined(hub: FakeHub, file: HubFile) -> None:
    shown: list[str] = []

    def decline(licence: str) -> bool:
        shown.append(licence)
        return False

    with pytest.raises(CheckpointError, match="declined"):
        fetch(file, confirm=decline)
    assert shown == ["For research only."]
    assert hub.requests == []


def test_licence_can_be_accepted(
    file: HubFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "napari_biomedparse")
    fetch(file, confirm=lambda licence: True)
    assert caplog.records == []


def test_offline_is_an_argument(hub: FakeHub, file: HubFile) -> None:
    with pytest.raises(CheckpointError, match=r"not in the cache .*give the path"):
        fetch(file, offline=True)
    assert hub.requests == []


def test_offline_is_a_variable(
    hub: FakeHub, file: HubFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="working offline"):
        fetch(file)
    assert hub.requests == []


def test_another_revision(hub: FakeHub, file: HubFile) -> None:
    path = fetch(file, revision="main")
    assert path.parent.name == COMMIT
    hub.requests.clear()
    assert fetch(file, revision="main") == path
    assert hub.requests == []


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("gated", r"denied \(401\).*accept its terms.*HF_TOKEN.*give the path"),
        ("not approved", r"denied \(403\).*accept its terms"),
        ("forbidden", r"denied \(403\).*token"),
        ("no repository", r"denied \(401\)"),
        ("no revision", "has no revision '0123"),
        ("no file", "has no file weights.ckpt at revision"),
        ("page", "is not the Hub.*login page.*give the path"),
        ("down", "returned error 503.*give the path"),
    ],
)
@pytest.mark.usefixtures("no_waiting")
def test_refusals(hub: FakeHub, file: HubFile, mood: str, message: str) -> None:
    hub.mood = mood
    with pytest.raises(CheckpointError, match=message):
        fetch(file)
    assert find_cached(file, file.name) is None


@pytest.mark.parametrize("mood", ["gated", "not approved", "forbidden"])
def test_token_opens_the_gate(hub: FakeHub, file: HubFile, mood: str) -> None:
    hub.mood = mood
    with pytest.raises(CheckpointError, match="denied"):
        fetch(file, token="hf_wrong")
    assert fetch(file, token=TOKEN).read_bytes() == CONTENT


def test_token_from_the_environment(
    hub: FakeHub, file: HubFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.mood = "gated"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(file).read_bytes() == CONTENT


@pytest.mark.usefixtures("no_waiting")
def test_no_network(file: HubFile, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    template = template.replace(constants.ENDPOINT, nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    with pytest.raises(CheckpointError, match=f"no connection to {nobody}.*path"):
        fetch(file)


@pytest.mark.usefixtures("no_waiting")
def test_interrupted_download_goes_on(
    hub: FakeHub, file: HubFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.mood = "stutter"
    seen: list[int] = []
    path = fetch(file, on_progress=lambda done, total: seen.append(done))
    assert path.read_bytes() == CONTENT
    assert f"GET /cdn/{hub.sha256} bytes={len(CONTENT) // 2}-" in hub.requests
    assert seen[-1] == len(CONTENT)


@pytest.mark.usefixtures("no_waiting")
def test_download_that_never_ends_well(
    hub: FakeHub, file: HubFile, tmp_path: Path
) -> None:
    file = replace(file, name="other.ckpt")
    hub.name = file.name
    hub.content = b"x"  # its half is nothing, so no attempt gets any further
    hub.mood = "broken"
    with pytest.raises(CheckpointError, match=r"was interrupted.*try again"):
        fetch(file)
    assert find_cached(file, file.name) is None
    assert not list(tmp_path.rglob("*.incomplete"))


def test_check(file: HubFile, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(CONTENT)
    check(file, path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match="299999 bytes instead of 300000 bytes"):
        check(file, path)
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"instead of {file.sha256}.*Delete it"):
        check(file, path)


def test_environment_variables_are_honoured(tmp_path: Path) -> None:
    code = (
        "from napari_biomedparse.networks.catalogue import HubFile; "
        "from napari_biomedparse.networks.hub import fetch; "
        f"f = HubFile('somebody/Something', 'weights.ckpt', {COMMIT!r}, 1, '', 'L'); "
        "print(fetch(f))"
    )
    hub = FakeHub("somebody/Something", "weights.ckpt", CONTENT, mood="gated")
    with serving(hub):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path),
                "HF_TOKEN": TOKEN,
                "NO_PROXY": "127.0.0.1,localhost",
            },
        )
    path = Path(done.stdout.strip())
    assert path.is_relative_to(tmp_path)
    assert path.read_bytes() == CONTENT
    assert done.stderr.startswith("L\n")
