from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.focalnet import (
    Backbone,
    FocalModulation,
    PatchEmbed,
)
from napari_biomedparse.networks.config import TINY


def test_modulation_equals_the_plain_formula() -> None:
    torch.manual_seed(0)
    width, levels = 6, 3
    module = FocalModulation(width, levels)
    x = torch.randn(2, 7, 5, width)
    y = module.f(x)
    query, context, gates = (
        y[..., :width],
        y[..., width : 2 * width],
        y[..., 2 * width :],
    )
    context = context.movedim(-1, 1).contiguous()
    total = torch.zeros_like(context)
    for level in range(levels):
        weight = module.focal_layers[level][0].weight
        assert weight.shape[-1] == 3 + 2 * level
        context = F.gelu(F.conv2d(context, weight, padding=1 + level, groups=width))
        total = total + context * gates[..., level][:, None]
    total = (
        total
        + F.gelu(context.mean((2, 3)))[..., None, None] * gates[..., levels][:, None]
    )
    expected = module.proj(query * module.h(total / (levels + 1)).movedim(1, -1))
    for way in (module, module._planar, module._channels_last):
        torch.testing.assert_close(way(x), expected, atol=1e-5, rtol=1e-4)
    low = copy.deepcopy(module).to(torch.bfloat16)
    for layer in low.focal_layers:  # as an engine keeps them on a CPU
        layer.float()
    found = low(x.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.05)


def test_odd_sizes_are_padded_right_and_bottom() -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(3, 8, kernel=7, stride=4)
    image = torch.randn(1, 3, 70, 90)
    padded = F.pad(image, (0, 2, 0, 2))
    assert embed(image).shape == (1, 18, 23, 8)
    torch.testing.assert_close(embed(image), embed(padded))


def test_strides_and_widths() -> None:
    features = Backbone(TINY)(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in features] == [
        (1, 8, 16, 24),
        (1, 16, 8, 12),
        (1, 32, 4, 6),
        (1, 64, 2, 3),
    ]
