"""Read untrusted files of `torch.save` safely."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch.torch_version import TorchVersion

from napari_biomedparse.errors import CheckpointError, check_shortage

SAFE_TORCH = "2.10"
"""Earlier weights-only unpicklers had holes (CVE-2025-32434, CVE-2026-24747)."""
_AGAIN = "Download it again, completely."
_MOST_PICKLE = 2**22
"""Largest pickle in an archive, in bytes; that of v2 has 0.2 MB."""

_KNOWN = {
    "argparse": {"Namespace"},
    "builtins": {"bool", "bytes", "complex", "dict", "float", "frozenset", "int",
                 "list", "object", "range", "slice", "str", "tuple"},
    "collections": {"defaultdict"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath",
                "WindowsPath"},
    "types": {"SimpleNamespace"},
    "typing": {"Any"},
    "uuid": {"UUID"},
}  # fmt: skip
"""What settings of a training run may hold from Python's own modules."""
_MAPPINGS = {
    "addict.addict.Dict",
    "collections.defaultdict",
    "easydict.EasyDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "yacs.config.CfgNode",
}
"""Classes that are restored item by item."""
_MOST_NAMES = 256

_ZIP = b"PK\x03\x04"
_ZIP_END, _ZIP_END_SIZE = b"PK\x05\x06", 22
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LFS = b"version https://git-lfs"


def _check_beginning(path: Path, head: bytes) -> None:
    """Raise an error that names the usual results of a failed download."""
    if not head:
        raise CheckpointError(f"{path} is empty; it should hold weights. {_AGAIN}")
    if head.startswith(_LFS):
        raise CheckpointError(
            f"{path} is a Git-LFS pointer, not the weights themselves. Run "
            "'git lfs pull' in its repository, or download the file itself."
        )
    if head.startswith(_ZIP) or _LEGACY.startswith(head[:15]):
        return
    text = head.decode("utf-8-sig", errors="replace").strip()
    if text.startswith("<") or (text.isascii() and "\0" not in text):
        raise CheckpointError(
            f"{path} is text or a web page, not weights. It begins with "
            f"{text[:80]!r}. If it is a login or error page, open the address it came "
            "from in a browser, accept the terms, and download the file there."
        )
    raise CheckpointError(
        f"{path} is neither safetensors nor a PyTorch checkpoint: its first bytes are "
        f"{head[:8]!r}. Give a .safetensors, .ckpt or .pt file."
    )


def read_pickled(path: Path, head: bytes) -> object:
    """Read what `torch.save` wrote, in its zip or older format, running no code of it.

    Returns tensors, mapped from the file where possible, and plain values; settings of
    a training run, such as omegaconf's, come as empty objects. `head` holds the first
    bytes. A `CheckpointError` is raised if the file is anything else, damaged
    or compressed, or if PyTorch is too old to read it safely.
    """
    _check_beginning(path, head)
    if TorchVersion(torch.__version__) < SAFE_TORCH:
        raise CheckpointError(
            f"{path} is a pickled checkpoint, which PyTorch {torch.__version__} cannot "
            f"read safely. Install PyTorch {SAFE_TORCH} or newer, or give a "
            ".safetensors file."
        )
    if path.suffix == ".safetensors":  # torch.load would believe the name
        raise CheckpointError(
            f"{path} is a pickled PyTorch checkpoint, despite its extension. Rename it "
            "to .ckpt if you trust its source."
        )
    is_zip = head.startswith(_ZIP)
    if is_zip:
        _check_archive(path)
    stand_ins: dict[str, Any] = {}
    try:
        while True:
            try:
                return _load(path, is_zip, stand_ins)
            except pickle.UnpicklingError as error:
                names = re.findall(r"GLOBAL (\S+) was not an allowed", str(error))
                name = names[0] if names else ""
                if name not in stand_ins and "." not in name:
                    name = f"builtins.{name}"  # which the message leaves out
                known = name in stand_ins or len(stand_ins) == _MOST_NAMES
                if not names or known or not _is_inert(name):
                    raise _unsafe(path, str(error)) from error
                stand_ins[name] = _Mapping if name in _MAPPINGS else _StandIn
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        check_shortage(error, memory=False)
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint: it is damaged, incomplete "
            f"or something else ({type(error).__name__}: {reason}). {_AGAIN}"
        ) from error


def _load(path: Path, is_zip: bool, stand_ins: Mapping[str, Any]) -> object:
    """Load with something inert for each of the names in `stand_ins`."""
    names: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
    with (
        torch.serialization.safe_globals(names),
        contextlib.nullcontext(path) if is_zip else _Bounded(path) as file,
    ):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)


def _is_inert(name: str) -> bool:
    """Return whether what a file calls by this name may be left out of it.

    Nothing of it would run in any case, but a file that names functions of Python or
    torch is not one of weights.
    """
    module, _, kind = name.rpartition(".")
    module = IMPORT_MAPPING.get(module, module)  # as pickles of Python 2 name it
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return kind in _KNOWN.get(module, ())
    return root != "torch"


class _StandIn:
    """Stands for an object of a class that is never imported, and forgets its state."""

    def __new__(cls, *_: object) -> Self:
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Take any state."""


class _Mapping:
    """Stands for an object of a class that is never imported, and keeps its items."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        """Take any arguments."""
        return OrderedDict()


class _Bounded(io.BufferedReader):
    """A file whose reads never allocate more bytes than it has."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most the bytes that are left."""
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is truncated, or not as `torch.save` writes it.

    Compressed parts, which it never writes, could expand without bounds.
    """
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _ZIP_END_SIZE, 0))
        whole = file.read().startswith(_ZIP_END)
    if not whole:
        raise CheckpointError(
            f"{path} is incomplete: the table of contents at its end is missing. "
            f"{_AGAIN}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged: its table of contents cannot be read ({error}). "
            f"{_AGAIN}"
        ) from error
    for entry in entries:
        pickled = entry.filename.endswith(".pkl")
        if entry.compress_type != zipfile.ZIP_STORED or (
            pickled and entry.file_size > _MOST_PICKLE
        ):
            raise CheckpointError(
                f"{path} was not loaded: its part {entry.filename!r} is compressed or "
                "larger than torch.save makes it. Get the file from its publisher, or "
                "ask its author for the state dict as .safetensors."
            )


def _unsafe(path: Path, reason: str) -> CheckpointError:
    """Explain why the weights-only unpickler refused."""
    names = sorted(set(re.findall(r"GLOBAL (\S+)", reason)))
    content = ", ".join(names) or "other Python objects, or is damaged"
    return CheckpointError(
        f"{path} was not loaded: besides tensors and plain values it holds {content}, "
        "and loading such a file could run a program. Get the file from its publisher, "
        "or ask its author for the state dict as .safetensors."
    )
