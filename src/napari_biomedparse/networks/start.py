"""Networks to be trained: initial values, and pretrained parts of other networks.

Section 8 of BoltzFormer's ARCHITECTURE. Nothing of a file is lost in silence: what is
taken and what is left out is logged.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from napari_biomedparse.errors import CheckpointError, OptionError
from napari_biomedparse.networks.blocks.focalnet import FocalBlock
from napari_biomedparse.networks.blocks.layers import Attention
from napari_biomedparse.networks.boltzformer.boltzformer import BoltzFormer
from napari_biomedparse.networks.checkpoint import read_checkpoint
from napari_biomedparse.networks.config import ARCHITECTURES
from napari_biomedparse.networks.v2.biomedparse import BiomedParse

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.maskformer import MaskFormer
    from napari_biomedparse.networks.blocks.text_encoder import TextEncoder

_LOGGER = logging.getLogger(__name__)

PREDICTOR = "sem_seg_head.predictor."
_RENAMED = (
    ("image_encoder.", "backbone."),  # of SAM 2
    (f"{PREDICTOR}lang_encoder.lang_encoder.",  # of X-Decoder, as is the next
     f"{PREDICTOR}language_encoder.encoder_transformer."),
    (f"{PREDICTOR}lang_encoder.", f"{PREDICTOR}language_encoder."),
)  # fmt: skip
_QUERIES = tuple(f"{PREDICTOR}query_{kind}.weight" for kind in ("feat", "embed"))
STD, SCALE = 0.02, 1e-4
"""Of a text encoder's layers, and initial scale of residual branches."""


class Start(NamedTuple):
    """A network to be trained, and whether its text encoder is pretrained."""

    model: MaskFormer
    knows_text: bool


def start_network(
    name: str,
    *,
    backbone: str | os.PathLike[str] | None = None,
    base: nn.Module | None = None,
    seed: int = 0,
) -> Start:
    """Make a network of one of the `ARCHITECTURES` that is fit to be trained.

    Parameters
    ----------
    backbone : path, optional
        Pretrained weights, of which all that fits is taken: of SAM 2 for Hiera, or of
        X-Decoder for FocalNet. They must have the whole backbone.
    base : Module, optional
        A network whose other parts are taken where name and shape are the same.
    seed : int
        Of what is drawn: all that is taken from neither.

    Raises
    ------
    OptionError
        If there is no such architecture.
    CheckpointError
        If the file cannot be read, or lacks a part of the backbone.
    """
    if name not in ARCHITECTURES:
        raise OptionError(
            f"There is no network {name!r} to be trained; choose one of "
            f"{', '.join(ARCHITECTURES)}."
        )
    config = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = BoltzFormer if config.network == "boltzformer" else BiomedParse
        model = kind(config)
        initialize(model)
    taken = set[str]()
    if base is not None:
        taken |= _take(model, base.state_dict(), "the base", prefix="sem_seg_head.")
    if backbone is not None:
        tensors = dict(map(_renamed, read_checkpoint(backbone).tensors.items()))
        lacking = [
            key
            for key, value in model.state_dict().items()
            if key.startswith("backbone.")
            and (key not in tensors or tensors[key].shape != value.shape)
        ]
        if lacking:
            raise CheckpointError(
                f"{backbone} is no pretrained backbone of {name}: {len(lacking)} "
                f"tensors are missing or of another shape, such as {lacking[0]}. Give "
                "the weights of SAM 2 for Hiera, or of X-Decoder for FocalNet."
            )
        taken |= _take(model, tensors, str(backbone))
    text = any(f"{PREDICTOR}language_encoder" in name for name in taken)
    return Start(model.eval().requires_grad_(False), text)


def initialize(model: MaskFormer) -> None:
    """Give a network the initial values of the original, from torch's generator."""
    text = model.mask_decoder.text_encoder
    for module in model.sem_seg_head.modules():
        if isinstance(module, nn.Linear | Attention):
            for value in module.parameters(recurse=False):
                if value.ndim > 1:
                    nn.init.xavier_uniform_(value)
        elif isinstance(module, nn.Conv2d):
            bound = math.sqrt(3 / math.prod(module.weight.shape[1:]))
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    _initialize_text(text)
    nn.init.normal_(model.mask_decoder.class_embed, std=STD)  # type: ignore[arg-type]
    for module in model.backbone.modules():
        if isinstance(module, FocalBlock):
            nn.init.constant_(module.gamma_1, SCALE)
            nn.init.constant_(module.gamma_2, SCALE)


def _initialize_text(text: TextEncoder) -> None:
    for name, value in text.named_parameters():
        if name.endswith("in_proj_weight") or "ln_" in name or not value.ndim:
            continue
        if name.endswith("lang_proj"):
            nn.init.normal_(value)
        elif value.ndim > 1:
            nn.init.normal_(value, std=STD)
        else:
            nn.init.zeros_(value)


def _renamed(item: tuple[str, Tensor]) -> tuple[str, Tensor]:
    """Give a tensor of another network the name of ours."""
    name, value = item
    for old, new in _RENAMED:
        if name.startswith(old):
            return new + name.removeprefix(old), value
    return item


def _take(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, prefix: str = ""
) -> set[str]:
    """Copy what fits by name and shape; of queries as many as there are.

    Returns the names.
    """
    own, taken = model.state_dict(), set[str]()
    for name, value in own.items():
        other = tensors.get(name, tensors.get(name.replace(".weight", "_.weight")))
        if other is None or not name.startswith(prefix):
            continue
        if name in _QUERIES and other.shape[1:] == value.shape[1:]:
            count = min(len(value), len(other))
            value[:count].copy_(other[:count])
        elif other.shape == value.shape:
            value.copy_(other)
        else:
            continue
        taken.add(name)
    left = sorted({n.rpartition(".")[0] for n in tensors.keys() - own.keys()})
    shown = ", ".join(left[:5]) + (" and others" if len(left) > 5 else "")
    _LOGGER.info(
        "%d of %d tensors are from %s; not needed: %s",
        len(taken), len(own), source, shown or "nothing",
    )  # fmt: skip
    return taken
