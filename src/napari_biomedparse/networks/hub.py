"""One published file: found in the Hugging Face cache, fetched, checked, explained.

What the file holds, and what is made of it, is decided elsewhere. Needs no torch.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from napari_biomedparse.errors import CheckpointError

_LOGGER = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int], object]
"""Told the bytes done and the bytes in total, again and again."""
Confirm: TypeAlias = Callable[[str], bool]
"""Shown the licence; tells whether to go on."""

_ACCESS_DENIED = {401, 403}


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository, pinned to one revision.

    Parameters
    ----------
    repository : str
        Owner and name.
    name : str
        Of the file in the repository.
    revision : str
        The commit that is used unless another one is asked for.
    size : int
        Bytes of the file at that commit.
    sha256 : str
        Of the file at that commit, in hexadecimal digits.
    licence : str
        What a user must know before the first download.
    """

    repository: str
    name: str
    revision: str
    size: int
    sha256: str
    licence: str

    @property
    def page(self) -> str:
        """Address of the page where people read and accept the terms."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def by_hand(self) -> str:
        """How to do without a connection from this computer."""
        return (
            f"Or download {self.page}/resolve/{self.revision}/{self.name} in a "
            "browser, on any computer, and give the path of the file as the model."
        )


def find_cached(file: HubFile, name: str, revision: str | None = None) -> Path | None:
    """Look into the Hugging Face cache, without any network.

    Parameters
    ----------
    file : HubFile
        Says the repository.
    name : str
        Of a file in the folder that the cache keeps for the revision.
    revision : str, optional
        Commit, branch or tag; the pinned commit by default.

    Returns
    -------
    Path or None
        None if the file is not in the cache.
    """
    found = try_to_load_from_cache(
        file.repository, name, revision=revision or file.revision
    )
    return Path(found) if isinstance(found, str) else None


def fetch(
    file: HubFile,
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    on_progress: Progress | None = None,
    confirm: Confirm | None = None,
) -> Path:
    """Take the file from the Hugging Face cache, or download it into that.

    Parameters
    ----------
    file : HubFile
        What to fetch.
    revision : str, optional
        Commit, branch or tag; the pinned commit by default.
    token : str, optional
        Access token; by default the one of ``HF_TOKEN`` or of ``hf auth login``.
    offline : bool
        Never use the network, as with ``HF_HUB_OFFLINE``.
    on_progress : callable, optional
        Called while downloading with the bytes done and the bytes in total; by
        default a progress bar is printed.
    confirm : callable, optional
        Called with the licence before a download; False ends it. By default the
        licence is logged as a warning.

    Returns
    -------
    Path
        Of the file in the cache.

    Raises
    ------
    CheckpointError
        If the file cannot be had, with what to do about it.
    """
    cached = find_cached(file, file.name, revision)
    if cached is not None:
        return cached
    if offline or constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{file.name} of {file.repository} is not in the cache "
            f"{constants.HF_HUB_CACHE}, and working offline was asked for. Run once "
            f"with a network connection. {file.by_hand}"
        )
    if confirm is None:
        _LOGGER.warning("%s", file.licence)
    elif not confirm(file.licence):
        raise CheckpointError(
            f"{file.name} was not downloaded because its terms were declined. Accept "
            "them, or choose another model."
        )
    try:
        path = hf_hub_download(
            file.repository,
            file.name,
            revision=revision or file.revision,
            token=token,
            tqdm_class=None if on_progress is None else _reporting_bar(on_progress),
        )
    except Exception as error:
        # A broken connection raises what the Hub client's HTTP library raises, and
        # that library differs from release to release.
        raise _explain(file, error, revision or file.revision) from error
    return Path(path)


def check(file: HubFile, path: Path) -> None:
    """Make sure that a downloaded file is the pinned one, byte for byte.

    Raises
    ------
    CheckpointError
        If its size or its checksum differs.
    """
    size = path.stat().st_size
    if size == file.size:
        _LOGGER.info("Checking the %.1f GB of %s", size / 1e9, path)
        found, expected = sha256(path), file.sha256
    else:
        found, expected = f"{size} bytes", f"{file.size} bytes"
    if found != expected:
        raise CheckpointError(
            f"{path} is not the published {file.name}: it has {found} instead of "
            f"{expected}. Delete it, so that it is downloaded again; if you know what "
            "it is, give its path as the model, which is not checked."
        )


def sha256(path: Path) -> str:
    """Compute the SHA-256 checksum of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _reporting_bar(on_progress: Progress) -> type[tqdm]:
    """Make a progress bar that draws nothing and calls `on_progress` instead."""

    class Bar(tqdm):
        def __init__(self, *args: object, **kwargs: object) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            on_progress(int(self.n), int(self.total or 0))

    return Bar


def _explain(file: HubFile, error: Exception, revision: str) -> CheckpointError:
    """Say in the user's words why a download failed, and what to do."""
    what = f"{file.name} of {file.repository}"
    response = getattr(error, "response", None) or getattr(
        error.__cause__, "response", None
    )
    status = getattr(response, "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(
            f"{file.repository} has no revision {revision!r}. Give a commit, branch or "
            f"tag listed at {file.page}/commits/main, or none for the pinned one."
        )
    if isinstance(error, RepositoryNotFoundError) or status in _ACCESS_DENIED:
        return CheckpointError(
            f"Access to {what} was denied ({status}), because the repository is gated. "
            f"Log in at {file.page} and accept its terms, make a read token at "
            "https://huggingface.co/settings/tokens, and pass it as token, in the "
            f"variable HF_TOKEN or by 'hf auth login'. {file.by_hand}"
        )
    if isinstance(error, LocalEntryNotFoundError):
        if isinstance(error.__cause__, FileMetadataError):
            reason = f"what answers at {constants.ENDPOINT} is not the Hub"
        elif status is not None:
            reason = f"the Hub answers with error {status}"
        else:
            reason = f"there is no connection to {constants.ENDPOINT}"
        return CheckpointError(
            f"{what} cannot be downloaded: {reason}. Check the network, a proxy or a "
            f"page to log in, and try again. {file.by_hand}"
        )
    if isinstance(error, EntryNotFoundError):
        return CheckpointError(
            f"{file.repository} has no file {file.name} at revision {revision!r}. Give "
            "another revision, or none for the pinned one."
        )
    return CheckpointError(
        f"The download of {what} broke off ({type(error).__name__}: {error}). Check "
        f"the connection and the room on the disk, and try again. {file.by_hand}"
    )
