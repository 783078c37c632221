"""A Hugging Face Hub of one file, on this computer, with the moods of the real one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import huggingface_hub
from huggingface_hub import constants

if TYPE_CHECKING:
    import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_good"

REFUSALS = {
    "gated": (401, "GatedRepo", "Access to model is restricted."),
    "not approved": (403, "GatedRepo", "You are not in the authorized list."),
    "forbidden": (403, None, "The token lacks a permission."),
    "no repository": (401, "RepoNotFound", "Repository not found"),
    "no revision": (404, "RevisionNotFound", "Invalid rev id"),
    "no file": (404, "EntryNotFound", "Entry not found"),
    "down": (503, None, "Service unavailable"),
}


@dataclass
class FakeHub:
    """One file of one repository.

    `mood` is ``fine``, a key of `REFUSALS`, ``page`` (a web page answers instead),
    ``stutter`` (the first download ends half-way) or ``broken`` (every one does).
    Refusals to let somebody in end with the token `TOKEN`.
    """

    repository: str
    name: str
    content: bytes
    mood: str = "fine"
    requests: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def store(self) -> str:
        """Address of the files: another host, which must not see the token."""
        return self.url.replace("127.0.0.1", "localhost")

    def paths(self) -> set[str]:
        base = f"/{self.repository}/resolve"
        return {f"{base}/{revision}/{self.name}" for revision in (COMMIT, "main")}


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(self.path)
            part = self.headers.get("Range", "")
            hub.requests.append(f"{self.command} {path} {part}".strip())
            code, error, message = REFUSALS.get(hub.mood, (0, None, ""))
            admitted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if hub.mood == "page":
                self._send(200, b"<html>Welcome to our network. Log in.</html>")
            elif path == f"/cdn/{hub.sha256}":
                self._send_file(part)
            elif code and not (admitted and code in (401, 403)):
                headers = {"X-Error-Message": message}
                if error:
                    headers["X-Error-Code"] = error
                self._send(code, message.encode(), headers)
            elif path in hub.paths():
                self._send(302, b"", self._facts())
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

        def _facts(self) -> dict[str, str]:
            return {
                "Location": f"{hub.store}/cdn/{hub.sha256}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hub.sha256}"',
                "X-Linked-Size": str(len(hub.content)),
            }

        def _send_file(self, part: str) -> None:
            start = int(part.removeprefix("bytes=").split("-")[0]) if part else 0
            body = hub.content[start:]
            headers = {"Accept-Ranges": "bytes"}
            if part:
                end, size = len(hub.content) - 1, len(hub.content)
                headers["Content-Range"] = f"bytes {start}-{end}/{size}"
            breaks_off = hub.mood in ("stutter", "broken")
            if hub.mood == "stutter":
                hub.mood = "fine"
            sent = body[: len(body) // 2] if breaks_off else body
            headers["Content-Length"] = str(len(body))
            self._send(206 if part else 200, sent, headers)
            self.close_connection = breaks_off

        def _send(
            self, code: int, body: bytes, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(code)
            headers = {"Content-Length": str(len(body)), **(headers or {})}
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the hub until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def connected(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    """Run the hub and let the Hub client in this process use it and an empty cache.

    The client reads its environment variables when it is imported, so what it made
    of them is replaced.
    """
    with serving(hub):
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        template = template.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(cache / "assets"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        huggingface_hub.close_session()
        try:
            yield hub
        finally:
            huggingface_hub.close_session()
