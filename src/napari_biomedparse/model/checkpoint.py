"""Weights on disk <-> a network's state dict, safely and completely.

Reading never runs code from the file, and fitting never ignores a tensor silently.
Where files come from is not decided here.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
import re
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from napari_biomedparse.errors import CheckpointError, OutputError
from napari_biomedparse.model.config import V2, BiomedParseConfig

_LOGGER = logging.getLogger(__name__)

SAFE_TORCH = "2.10"
"""Earlier weights-only unpicklers had holes (CVE-2025-32434, CVE-2026-24747)."""
_TRAINING_ONLY = "loss_function."
_PREFIX = "model."
_CONFIG = "config"
_SHOWN = 5
_MOST = 2**20
"""Largest size that a network's configuration may have."""
_MOST_LAYERS = 256
_MOST_PICKLE = 2**22
"""Longest description of tensors, in bytes; that of v2 takes 0.2 MB."""

_ZIP = b"PK\x03\x04"
_ZIP_END, _ZIP_END_SIZE = b"PK\x05\x06", 22
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LFS = b"version https://git-lfs"
_AGAIN = "Download it again, whole."


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Named as in the network's state dict; mapped from the file where possible.
    config : BiomedParseConfig or None
        Sizes of the network, where the file tells them.
    metadata : dict of str to str
        What else a safetensors file says about itself.
    """

    tensors: dict[str, Tensor]
    config: BiomedParseConfig | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read weights without running anything the file may contain.

    The content decides on the format, not the name. A checkpoint of PyTorch or
    Lightning is read by the weights-only unpickler alone: a ``state_dict`` entry is
    looked up, the prefix ``model.`` stripped and what only training needs left out.

    Parameters
    ----------
    path : path
        A safetensors file or a PyTorch checkpoint.

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, something else than weights, or unsafe.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}). Give the path of a "
            ".safetensors, .ckpt or .pt file that you may read."
        ) from error
    _refuse_what_is_no_weights_file(path, head)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_pickled(path, head)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read only the tensors of a weights file; see `read_checkpoint`."""
    return read_checkpoint(path).tensors


def load_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str | os.PathLike[str]
) -> None:
    """Give a network its weights; every tensor must find its place.

    The tensors become the network's own without a copy, so a network built on the
    meta device uses memory-mapped weights directly.

    Parameters
    ----------
    model : nn.Module
        On any device, the meta device included. Changed in place.
    tensors : mapping of str to Tensor
        Its complete state dict, in any floating-point precision.
    source : str or path
        Where the tensors come from, for the message.

    Raises
    ------
    CheckpointError
        If a tensor is missing, not expected, or of another shape or kind; all are
        reported at once and nothing is loaded.
    """
    expected = model.state_dict()
    if not expected.keys() & tensors.keys():
        raise CheckpointError(
            f"{source} holds the weights of another network: it has none of the "
            f"{len(expected)} tensors expected (like {_some(expected)}), but "
            f"{_some(tensors) or 'nothing'}. Give a BiomedParse v2 checkpoint."
        )
    problems = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "unfitting": [
            f"{key} ({_kind(tensors[key])} instead of {_kind(wanted)})"
            for key, wanted in expected.items()
            if key in tensors and _kind(tensors[key]) != _kind(wanted)
        ],
    }
    if any(problems.values()):
        report = "; ".join(
            f"{len(names)} {problem}: {_some(names)}"
            for problem, names in problems.items()
            if names
        )
        raise CheckpointError(
            f"{source} does not fit the network of {len(expected)} tensors. {report}. "
            "Give a checkpoint of exactly this network; BiomedParse v1 does not fit."
        )
    fitting = {key: tensors[key].to(wanted.dtype) for key, wanted in expected.items()}
    model.load_state_dict(fitting, assign=True)


def save_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    config: BiomedParseConfig | None = None,
) -> None:
    """Write weights as safetensors; the file appears complete or not at all.

    Parameters
    ----------
    path : path
        Of the new file; an existing one is replaced.
    tensors : mapping of str to Tensor
        The state dict.
    metadata : mapping of str to str, optional
        Facts to keep with the weights.
    config : BiomedParseConfig, optional
        Sizes of the network, so that the file can be loaded by itself.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    facts = {"format": "pt", **(metadata or {})}
    if config is not None:
        facts[_CONFIG] = json.dumps(asdict(config))
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        save_file(_separate(tensors), part, metadata=facts)
        part.chmod(mode)  # safetensors lets nobody but the owner read
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"The weights cannot be written to {path} ({error}). Choose a folder that "
            "you may write to and that has room for them."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _refuse_what_is_no_weights_file(path: Path, head: bytes) -> None:
    """Name the usual results of a failed download for what they are."""
    if not head:
        raise CheckpointError(f"{path} is empty instead of holding weights. {_AGAIN}")
    if head.startswith(_LFS):
        raise CheckpointError(
            f"{path} is a Git-LFS pointer, a few lines that stand for the weights. Run "
            "'git lfs pull' in its repository, or download the file itself."
        )
    if head[8:9] == b"{" or head.startswith(_ZIP) or _LEGACY.startswith(head[:15]):
        return
    text = head.decode("utf-8-sig", errors="replace").strip()
    if text.startswith("<") or (text.isascii() and "\0" not in text):
        raise CheckpointError(
            f"{path} is a text or web page instead of weights. It begins with "
            f"{text[:80]!r}. If it asks to log in or reports an error, open the "
            "address it came from in a browser, accept the terms, and download the "
            "file there."
        )
    raise CheckpointError(
        f"{path} is neither safetensors nor a PyTorch checkpoint, going by its first "
        f"bytes ({head[:8]!r}). Give a .safetensors, .ckpt or .pt file."
    )


def _read_safetensors(path: Path) -> Checkpoint:
    """Map a safetensors file."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or incomplete as a safetensors file ({error}). {_AGAIN}"
        ) from error
    config = metadata.pop(_CONFIG, None)
    return Checkpoint(tensors, _parse_config(config, path), metadata)


def _read_pickled(path: Path, head: bytes) -> Checkpoint:
    """Read a checkpoint of `torch.save`, in its zip or its older format."""
    if TorchVersion(torch.__version__) < SAFE_TORCH:
        raise CheckpointError(
            f"{path} is a pickled checkpoint, and PyTorch {torch.__version__} cannot "
            f"read those safely. Install PyTorch {SAFE_TORCH} or newer, or give a "
            ".safetensors file."
        )
    if path.suffix == ".safetensors":  # torch.load would believe the name
        raise CheckpointError(
            f"{path} is a pickled PyTorch checkpoint in spite of its name. Rename it "
            "to .ckpt if you trust where it comes from."
        )
    is_zip = head.startswith(_ZIP)
    if is_zip:
        _check_archive(path)
    try:
        with contextlib.nullcontext(path) if is_zip else _open_bounded(path) as file:
            content = torch.load(
                file, map_location="cpu", weights_only=True, mmap=is_zip
            )
    except pickle.UnpicklingError as error:
        raise _unsafe(path, str(error)) from error
    except Exception as error:  # a damaged file can fail in any way
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint: it is damaged, incomplete "
            f"or something else ({type(error).__name__}: {reason}). {_AGAIN}"
        ) from error
    return _from_content(content, path)


class _Bounded(io.BufferedReader):
    """A file that never makes room for more bytes than it has."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most what is left."""
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _open_bounded(path: Path) -> _Bounded:
    return _Bounded(io.FileIO(path))


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is cut short, or not as `torch.save` writes it.

    That stores its parts as they are. Packed parts could grow without bounds.
    """
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _ZIP_END_SIZE, 0))
        whole = file.read().startswith(_ZIP_END)
    if not whole:
        raise CheckpointError(
            f"{path} is incomplete: it ends before the table of contents that closes "
            f"a checkpoint. {_AGAIN}"
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
                f"{path} was not loaded: its part {entry.filename!r} is packed or "
                "longer than torch.save makes it. Get the file from its publisher, or "
                "ask its author for the state dict as .safetensors."
            )


def _unsafe(path: Path, reason: str) -> CheckpointError:
    """Explain why the weights-only unpickler refused."""
    names = sorted(set(re.findall(r"GLOBAL (\S+)", reason)))
    found = ", ".join(names) or "other Python objects, or is damaged"
    return CheckpointError(
        f"{path} was not loaded: besides tensors and plain values it holds {found}, "
        "and loading such a file could run a program. Get the file from its publisher, "
        "or ask its author for the state dict as .safetensors."
    )


def _from_content(content: object, path: Path) -> Checkpoint:
    """Pick the weights out of what a checkpoint holds."""
    config = None
    weights = content
    if isinstance(content, Mapping) and "state_dict" in content:
        weights = content["state_dict"]
        settings = content.get("hyper_parameters")
        if isinstance(settings, Mapping):
            config = settings.get(_CONFIG)
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(
            f"{path} holds {type(weights).__name__} instead of named tensors. Give a "
            "file that holds a state dict, as it is or as its entry 'state_dict'."
        )
    names = {str(key).removeprefix(_PREFIX): key for key in weights}
    tensors = {
        name: weights[key]
        for name, key in names.items()
        if not name.startswith(_TRAINING_ONLY)
    }
    others = [name for name, value in tensors.items() if not _is_plain(value)]
    if others or len(names) < len(weights):
        twice = len(weights) - len(names)
        raise CheckpointError(
            f"{path} is no plain state dict: {len(others)} entries are no tensors "
            f"({_some(others)}) and {twice} occur both with and without the prefix "
            f"{_PREFIX!r}. Give a file that holds one network's tensors."
        )
    _LOGGER.debug("%s: %d of %d entries are weights", path, len(tensors), len(weights))
    return Checkpoint(tensors, _parse_config(config, path))


def _is_plain(value: object) -> bool:
    """Tell whether this is a tensor of numbers that are all there, in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _parse_config(stored: object, path: Path) -> BiomedParseConfig | None:
    """Make the configuration from its stored fields, as JSON text or a mapping."""
    if stored is None:
        return None
    try:
        fields = json.loads(stored) if isinstance(stored, str) else stored
        values = {
            name: type(getattr(V2, name))(value)
            for name, value in cast(Mapping[str, object], fields).items()
        }
        _check_sizes(values)
        return BiomedParseConfig(**values)
    except (ArithmeticError, LookupError, RecursionError, ValueError, TypeError,
            AttributeError) as error:  # fmt: skip
        raise CheckpointError(
            f"{path} describes a network that this version does not know ({error}). "
            "Update napari-biomedparse, or give weights made with this version."
        ) from error


def _check_sizes(values: Mapping[str, object]) -> None:
    """Raise a `ValueError` where a configuration has sizes that no network has."""
    for name, value in values.items():
        given = value if isinstance(value, tuple) else (value,)
        expected = getattr(V2, name)
        count = len(expected) if isinstance(expected, tuple) else 1
        most = _MOST_LAYERS if name.endswith(("depths", "layers", "levels")) else _MOST
        if len(given) != count or not all(
            isinstance(size, int | float) and 0 < size <= most for size in given
        ):
            raise ValueError(f"{name} is {str(value)[:80]}")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy what shares memory or lies scattered, which safetensors cannot store."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        own = tensor.detach().contiguous()
        separate[key] = own.clone() if storage in seen else own
        seen.add(storage)
    return separate


def _kind(tensor: Tensor) -> str:
    """Describe what must agree: the shape, and whether numbers are floating point."""
    numbers = "" if tensor.is_floating_point() else f" {tensor.dtype}"
    return f"{list(tensor.shape)}{numbers}"


def _some(names: Iterable[str]) -> str:
    """List a few names and say how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
