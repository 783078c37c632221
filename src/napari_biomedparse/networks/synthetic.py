"""Untrained weights that can be reproduced bit for bit, for networks of any size.

They make the computations of two implementations comparable, and replace trained
weights in tests and benchmarks.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

_PREDICTOR = "sem_seg_head.predictor."
_PIXEL_STATISTICS = {"pixel_mean": 114.495, "pixel_std": 57.63}
_UNSCALED = (
    "token_embedding.weight", "classifier_query.weight", "level_embed.weight"
)  # fmt: skip
_SMALL = (
    "positional_embedding", "pos_embed", "pos_embed_window", "query_feat_.weight",
    "query_embed_.weight", "query_feat.weight", "query_embed.weight",
)  # fmt: skip
_GAINS = {
    f"{_PREDICTOR}language_encoder.lang_proj": 2.0,
    f"{_PREDICTOR}mask_embed.layers.2.weight": 0.3,
    f"{_PREDICTOR}classifier.weight": 3.0,
}


def synthetic_state_dict(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Make float32 weights on the CPU from the names and shapes of a state dict.

    Each tensor is drawn by a generator seeded with the checksum of its name, so
    neither the order nor the presence of other tensors matters. Scales are chosen
    per kind of tensor so that activations stay in a realistic range.
    """
    return {key: _tensor(key, torch.Size(shape)) for key, shape in shapes.items()}


def _tensor(key: str, shape: torch.Size) -> Tensor:
    if key in _PIXEL_STATISTICS:
        return torch.full(shape, _PIXEL_STATISTICS[key])
    if not shape:
        return torch.tensor(1.0)
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode("utf-8")))
    z = torch.randn(shape, generator=generator, dtype=torch.float32)
    if key.endswith((".gamma_1", ".gamma_2")):
        return z.mul_(0.1).add_(0.4)
    if len(shape) == 1:
        if key.endswith(".weight"):  # a norm's scale, else a bias
            return z.mul_(0.1).add_(1.0)
        if key == f"{_PREDICTOR}classifier.bias":
            return z.mul_(0.05).add_(0.7)
        return z.mul_(0.05)
    if key.endswith(_UNSCALED):
        return z
    if key.endswith(_SMALL):
        return z.mul_(0.3)
    fan_in = math.prod(shape[1:])
    return z.mul_(_gain(key)).div_(math.sqrt(fan_in))


def _gain(key: str) -> float:
    """Look up the factor of a matrix or kernel over one by root of fan-in."""
    if key in _GAINS:
        return _GAINS[key]
    is_attention = key.startswith(_PREDICTOR) and key.endswith("in_proj_weight")
    return 1.5 if is_attention and "language_encoder" not in key else 1.0
