"""Read and write weights files, and fit weights to a network.

Reading never runs code from the file, and fitting never ignores a tensor silently.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_biomedparse.errors import CheckpointError, OutputError
from napari_biomedparse.networks.config import (
    FOCAL_L,
    HIERA_BP,
    HIERA_S,
    RECORD,
    V1,
    V1_NAME,
    V2,
    BiomedParseConfig,
    parse_config,
)

_LOGGER = logging.getLogger(__name__)

_DECODER = "sem_seg_head.predictor."
_UNUSED = (
    "loss_function.",
    "criterion.",
    "dilation_kernel",
    f"{_DECODER}lang_encoder.biomed_encoder.",  # a second text encoder of v1
    f"{_DECODER}mask_sptial_embed.",  # and what its clicks and scribbles need
    f"{_DECODER}pn_indicator.",
    f"{_DECODER}spatial_embed.",
    f"{_DECODER}spatial_featured.",
)
"""Tensors of published files that no text prompt needs."""
_PREFIX = "model."
_SHOWN = 5


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds."""

    tensors: dict[str, Tensor]  # the state dict, mapped from the file where possible
    config: BiomedParseConfig | None = None  # if the file records it
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a safetensors file or a PyTorch checkpoint without running code in it.

    The content decides the format, not the name. A checkpoint of PyTorch or Lightning
    is read by the weights-only unpickler: a ``state_dict`` entry is looked up, the
    prefix ``model.`` removed, and what text prompts do not need is left out.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, unsafe, or does not hold weights.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}). Give the path of a readable "
            ".safetensors, .ckpt or .pt file."
        ) from error
    if head[8:9] == b"{":
        return _read_safetensors(path)
    from napari_biomedparse.networks.archive import read_pickled

    return _from_content(read_pickled(path, head), path)


def load_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str | os.PathLike[str]
) -> None:
    """Give a network its weights, in any floating-point precision, without a copy.

    A network built on the meta device uses memory-mapped weights directly. If tensors
    are missing, unexpected, or of another shape or kind, a `CheckpointError` lists all
    of them, naming `source`, and nothing is loaded.
    """
    expected = model.state_dict()
    if not expected.keys() & tensors.keys():
        raise CheckpointError(
            f"{source} holds the weights of another network: it has none of the "
            f"{len(expected)} expected tensors (such as {_some(expected)}), but "
            f"{_some(tensors) or 'nothing'}. Give a checkpoint of BiomedParse."
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
            "Give a checkpoint of exactly this network."
        )
    fitting = {key: tensors[key].to(wanted.dtype) for key, wanted in expected.items()}
    model.load_state_dict(fitting, assign=True)


def save_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    config: BiomedParseConfig | None = None,
) -> None:
    """Write a state dict as safetensors, complete or not at all.

    An existing file is replaced. With `config`, the file is sufficient to load the
    network. An `OutputError` is raised if it cannot be written.
    """
    path = Path(path)
    facts = {"format": "pt", **(metadata or {})}
    if config is not None:
        facts[RECORD] = json.dumps(asdict(config))
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        save_file(_separate(tensors), part, metadata=facts)
        part.chmod(mode)  # safetensors lets nobody but the owner read
        with part.open("rb+") as file:  # on the disk before it takes the other's name
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"The weights cannot be written to {path} ({error}). Choose a writable "
            "folder with enough free space."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def network_of(tensors: Mapping[str, Tensor]) -> BiomedParseConfig:
    """Return the configuration that tensors without a record of it belong to."""
    if any(V1_NAME in name for name in tensors):
        return V1
    positions = tensors.get("backbone.trunk.pos_embed")
    if positions is not None:
        small = positions.shape[-1] == HIERA_S.position_size
        network = HIERA_S if small else HIERA_BP
    elif f"{_DECODER}query_feat.weight" in tensors:
        network = FOCAL_L
    else:
        return V2
    return replace(network, output_layer="output_conv.weight" in tensors)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            names = [key for key in file.keys() if not key.startswith(_UNUSED)]
            tensors = {key: file.get_tensor(key) for key in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or incomplete as a safetensors file ({error}). "
            "Download it again, completely."
        ) from error
    config = metadata.pop(RECORD, None)
    return Checkpoint(tensors, parse_config(config, path), metadata)


def _from_content(content: object, path: Path) -> Checkpoint:
    config = None
    weights = content
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        weights = content["model"]  # as in files of SAM 2
    if isinstance(content, Mapping) and "state_dict" in content:
        weights = content["state_dict"]
        settings = content.get("hyper_parameters")
        if isinstance(settings, Mapping):
            config = settings.get(RECORD)
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(
            f"{path} holds {type(weights).__name__} instead of named tensors. Give a "
            "file that holds a state dict, either directly or in an entry 'state_dict'."
        )
    names = {str(key).removeprefix(_PREFIX): key for key in weights}
    tensors = {
        name: weights[key]
        for name, key in names.items()
        if not name.startswith(_UNUSED)
    }
    others = [name for name, value in tensors.items() if not _is_plain(value)]
    if others or len(names) < len(weights):
        twice = len(weights) - len(names)
        raise CheckpointError(
            f"{path} is not a plain state dict: {len(others)} entries are not tensors "
            f"({_some(others)}) and {twice} occur both with and without the prefix "
            f"{_PREFIX!r}. Give a file that holds the tensors of one network."
        )
    _LOGGER.debug("%s: %d of %d entries are weights", path, len(tensors), len(weights))
    return Checkpoint(tensors, parse_config(config, path))


def _is_plain(value: object) -> bool:
    """Return whether this is a dense, complete tensor on the CPU."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory or are not contiguous, as safetensors requires."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        own = tensor.detach().contiguous()
        separate[key] = own.clone() if storage in seen else own
        seen.add(storage)
    return separate


def _kind(tensor: Tensor) -> str:
    """Describe what must match: the shape, and the type if it is not floating point."""
    numbers = "" if tensor.is_floating_point() else f" {tensor.dtype}"
    return f"{list(tensor.shape)}{numbers}"


def _some(names: Iterable[str]) -> str:
    """List a few names, and the number of the others."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
