"""Download a published file into the Hugging Face cache, and verify it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

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

if TYPE_CHECKING:
    from napari_biomedparse.networks.catalogue import HubFile

_LOGGER = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int], object]
"""Called repeatedly with the bytes done and the bytes in total."""
Confirm: TypeAlias = Callable[[str], bool]
"""Called with the licence; returns whether to download."""

_ACCESS_DENIED = {401, 403}


def find_cached(file: HubFile, name: str, revision: str | None = None) -> Path | None:
    """Return the path of a file beside `file` in the cache, if it is there.

    The pinned revision is the default.
    """
    path = try_to_load_from_cache(
        file.repository, name, revision=revision or file.revision
    )
    return Path(path) if isinstance(path, str) else None


def fetch(
    file: HubFile,
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    on_progress: Progress | None = None,
    confirm: Confirm | None = None,
) -> Path:
    """Return the path of a file in the Hugging Face cache, downloading it if needed.

    Parameters
    ----------
    revision : str, optional
        Commit, branch or tag; the pinned commit by default.
    token : str, optional
        Access token; by default that of ``HF_TOKEN`` or ``hf auth login``.
    offline : bool
        Never use the network, as with ``HF_HUB_OFFLINE``.
    on_progress : callable, optional
        Called while downloading with the bytes done and the bytes in total; by
        default a progress bar is printed.
    confirm : callable, optional
        Called with the licence before a download; if it returns False, nothing is
        downloaded. By default the licence is logged as a warning.

    Raises
    ------
    CheckpointError
        If the file cannot be obtained; the message says what to do.
    """
    cached = find_cached(file, file.name, revision)
    if cached is not None:
        return cached
    if offline or constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{file.name} of {file.repository} is not in the cache "
            f"{constants.HF_HUB_CACHE}, and downloads are disabled (working offline). "
            f"Run once with a network connection. {file.by_hand}"
        )
    if confirm is None:
        _LOGGER.warning("%s", file.licence)
    elif not confirm(file.licence):
        raise CheckpointError(
            f"{file.name} was not downloaded because its terms were declined. Accept "
            "them or choose another model."
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
        # A broken connection raises errors of the Hub client's HTTP library, which
        # differs from release to release.
        raise _explain(file, error, revision or file.revision) from error
    return Path(path)


def check(file: HubFile, path: Path) -> None:
    """Raise a `CheckpointError` unless a file is the pinned one, byte for byte.

    If neither size nor checksum was published, the Hub's own check has to do.
    """
    if file.size is None:
        return
    size = path.stat().st_size
    if size == file.size:
        _LOGGER.info("Verifying %s (%.1f GB)", path, size / 1e9)
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        expected = file.sha256
    else:
        found, expected = f"{size} bytes", f"{file.size} bytes"
    if found != expected:
        raise CheckpointError(
            f"{path} is not the published {file.name}: it has {found} instead of "
            f"{expected}. Delete it to download it again. If you trust it, give its "
            "path as the model: a path is not verified."
        )


def _reporting_bar(on_progress: Progress) -> type[tqdm]:
    """Make a progress bar class that calls `on_progress` instead of drawing."""

    class Bar(tqdm):
        def __init__(self, *args: object, **kwargs: object) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            on_progress(int(self.n), int(self.total or 0))

    return Bar


def _explain(file: HubFile, error: Exception, revision: str) -> CheckpointError:
    """Explain why a download failed, and what to do."""
    what = f"{file.name} of {file.repository}"
    response = getattr(error, "response", None) or getattr(
        error.__cause__, "response", None
    )
    status = getattr(response, "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(
            f"{file.repository} has no revision {revision!r}. Give a commit, branch or "
            f"tag listed at {file.page}/commits/main, or omit it for the pinned one."
        )
    if isinstance(error, RepositoryNotFoundError) or status in _ACCESS_DENIED:
        return CheckpointError(
            f"Access to {what} was denied ({status}): the repository is gated. Log in "
            f"at {file.page}, accept its terms, create a read token at "
            "https://huggingface.co/settings/tokens, and pass it as token, in the "
            f"variable HF_TOKEN or with 'hf auth login'. {file.by_hand}"
        )
    if isinstance(error, LocalEntryNotFoundError):
        if isinstance(error.__cause__, FileMetadataError):
            reason = f"the server at {constants.ENDPOINT} is not the Hub"
        elif status is not None:
            reason = f"the Hub returned error {status}"
        else:
            reason = f"there is no connection to {constants.ENDPOINT}"
        return CheckpointError(
            f"{what} cannot be downloaded: {reason}. Check the network, the proxy and "
            f"any login page, and try again. {file.by_hand}"
        )
    if isinstance(error, EntryNotFoundError):
        return CheckpointError(
            f"{file.repository} has no file {file.name} at revision {revision!r}. Give "
            "another revision, or omit it for the pinned one."
        )
    return CheckpointError(
        f"The download of {what} was interrupted ({type(error).__name__}: {error}). "
        f"Check the connection and the free disk space, and try again. {file.by_hand}"
    )
