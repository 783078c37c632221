"""The package's own exceptions; everything it refuses is one of these.

Each kind is also the matching built-in, so that scripts can catch either.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires

_LONGEST = 2000
"""Characters of a message that people are shown; a file's content may be in it."""


class BiomedParseError(Exception):
    """Base of all errors raised on purpose by this package.

    Parameters
    ----------
    message : str
        What is wrong and what to do. The middle is left out of one that is too long
        to read; the remedy stands at its end.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _LONGEST:
            half = _LONGEST // 2
            message = f"{message[:half]} … {message[-half:]}"
        super().__init__(message)


class FormatError(BiomedParseError, ValueError):
    """A file is not what its name or content promises, or is damaged."""


class VolumeError(BiomedParseError, ValueError):
    """An array cannot be segmented: wrong rank, empty, wrong dtype, no finite value."""


class PromptError(BiomedParseError, ValueError):
    """A text prompt, or a set of them, cannot be used."""


class OptionError(BiomedParseError, ValueError):
    """An option has a value outside its range or choices."""


class CheckpointError(BiomedParseError, RuntimeError):
    """Weights cannot be found, fetched, read safely or fitted to the network."""


class DeviceError(BiomedParseError, RuntimeError):
    """The compute device asked for is missing, or its memory does not suffice."""


class OutputError(BiomedParseError, OSError):
    """A result cannot be written where it was asked to go."""


class WorkerError(BiomedParseError, RuntimeError):
    """The model process could not be started, or ended unexpectedly."""


class Cancelled(BiomedParseError):
    """The run was cancelled; whatever was finished is kept."""


def shortage(error: BaseException, *, memory: bool = True) -> DeviceError | None:
    """Return what the computer is short of, if that is what an error means.

    `memory` is False where a damaged file may claim more than there is.
    """
    number, text = getattr(error, "errno", None), str(error)
    signs = ("std::bad_alloc", "CPUAllocator", "Cannot allocate memory")
    if isinstance(error, BiomedParseError):
        return None
    if "can't start new thread" in text or isinstance(error, BlockingIOError):
        what, how = "The system allows no more threads or processes", "ulimit -u"
    elif number in (errno.EMFILE, errno.ENFILE):
        what, how = "Too many files are open", "ulimit -n"
    elif "out of memory" in text and isinstance(error, RuntimeError):
        return DeviceError(
            "The memory of the device ran out. Close other programs that use it, or "
            "choose another device or a smaller batch size."
        )
    elif memory and (isinstance(error, MemoryError) or any(s in text for s in signs)):
        return DeviceError(
            "Memory ran out. Close other programs, or choose a smaller batch size."
        )
    else:
        return None
    return DeviceError(f"{what}. Close other programs, or raise the limit ({how}).")


def check_shortage(error: BaseException, *, memory: bool = True) -> None:
    """Raise the `shortage` that an error means, if any."""
    if short := shortage(error, memory=memory):
        raise short from error


def pip_install(*packages: str) -> str:
    """Return the command that installs packages into the Python that runs this."""
    words = [sys.executable, "-m", "pip", "install", *packages]
    return " ".join(f'"{w}"' if re.search(r"[^\w./\\:-]", w) else w for w in words)


def install_extra(extra: str) -> str:
    """Return the command that installs what an extra needs, from wherever it came."""
    needed = (r.partition("; extra == ") for r in requires("napari-biomedparse") or ())
    return pip_install(*(name for name, _, of in needed if of.strip("'\"") == extra))


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Raise an `OptionError` that names the extra to install if an import fails."""
    try:
        yield
    except ImportError as error:
        raise OptionError(
            f"{what} need more packages ({error}); install them with: "
            f"{install_extra(extra)}"
        ) from error
