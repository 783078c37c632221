"""Output layer of BoltzFormer: the masks of all queries, corrected by the pixels.

Section 7 of its ARCHITECTURE. Nothing is between the two convolutions, so they are one
transposed convolution of the masks; and as a mask is a product of an embedding with the
mask features, the sum over queries is taken in the embeddings: one mask for each of the
16 taps of the kernel, and their mean, instead of one for each query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.decoder import masks_of

if TYPE_CHECKING:
    from torch import nn

COLOURS = 3
"""Channels of the image, which come first."""


def aggregate(
    embedding: Tensor,
    features: Tensor,
    pixels: Tensor,
    deconv: nn.ConvTranspose2d,
    conv: nn.Conv2d,
) -> Tensor:
    """Aggregate the masks of all queries as logits [N, 1, 2 h, 2 w].

    `embedding` [N, Q, C] and `features` [B, C, h, w], shared by neighbours, make the
    masks; `pixels` [N, 1, 2 h, 2 w] are of `pixel_logits`.
    """
    taps = _folded(deconv, conv)[COLOURS:].flatten(1).T  # [16, Q]
    mean = taps.new_full((1, taps.shape[1]), 1 / taps.shape[1])
    rows = torch.cat([taps, mean]).to(embedding.dtype)
    combined = rows.expand(len(embedding), -1, -1) @ embedding  # [N, 17, C]
    height, width = features.shape[-2:]
    maps = masks_of(combined, features.flatten(2))
    maps = maps.view(len(maps), -1, height, width)
    size = deconv.kernel_size[0] ** 2
    one_tap = torch.eye(size, dtype=maps.dtype, device=maps.device)
    one_tap = one_tap.view(size, 1, *deconv.kernel_size)
    corrected = F.conv_transpose2d(maps[:, :size], one_tap, stride=2, padding=1)
    mean_mask = F.interpolate(maps[:, size:], scale_factor=2.0, mode="bilinear")
    return (corrected + pixels + mean_mask) / 2


def pixel_logits(image: Tensor, deconv: nn.ConvTranspose2d, conv: nn.Conv2d) -> Tensor:
    """Return what normalised slices [B, 3, S, S] add, float32 [B, 1, S / 2, S / 2]."""
    half, quarter = (
        F.interpolate(image, scale_factor=scale, mode="bilinear")
        for scale in (0.5, 0.25)
    )
    kernel = _folded(deconv, conv)[:COLOURS, None]
    assert conv.bias is not None and deconv.bias is not None
    own, other = conv.weight[:, :COLOURS], conv.weight[:, COLOURS:]
    bias = conv.bias + other.flatten() @ deconv.bias
    return F.conv_transpose2d(quarter, kernel, stride=2, padding=1) + F.conv2d(
        half, own, bias
    )


def _folded(deconv: nn.ConvTranspose2d, conv: nn.Conv2d) -> Tensor:
    """Fold both convolutions into one kernel, [3 + Q, 4, 4]."""
    return torch.einsum("iokl,o->ikl", deconv.weight, conv.weight[0, COLOURS:, 0, 0])
