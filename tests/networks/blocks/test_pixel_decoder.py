from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.pixel_decoder import (
    EncoderLayer,
    NormedConv,
    PixelDecoder,
)
from napari_biomedparse.networks.config import TINY


def test_encoder_layer_equals_torch_but_for_positions() -> None:
    torch.manual_seed(0)
    ours = EncoderLayer(TINY)
    theirs = nn.TransformerEncoderLayer(
        TINY.dim, TINY.heads, TINY.feedforward, dropout=0.0, batch_first=True
    )
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 9, TINY.dim)
    torch.testing.assert_close(
        ours(x, torch.zeros(9, TINY.dim)), theirs(x), atol=1e-5, rtol=1e-5
    )


def test_positions_do_not_enter_the_values() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(TINY)
    x = torch.randn(1, 1, TINY.dim).expand(1, 4, -1)  # equal values: weights cancel
    positions = torch.randn(4, TINY.dim)
    torch.testing.assert_close(
        layer(x, positions), layer(x, torch.zeros(4, TINY.dim)), atol=1e-5, rtol=1e-5
    )


def test_convolution_is_normalised_and_has_no_bias() -> None:
    torch.manual_seed(0)
    conv = NormedConv(8, 16, 3, groups=4)
    x = torch.randn(1, 8, 6, 6)
    expected = F.group_norm(F.conv2d(x, conv.weight, padding=1), 4)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


def test_levels_and_mask_features() -> None:
    shapes = [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]
    features = tuple(torch.randn(1, *shape) for shape in shapes)
    pixels = PixelDecoder(TINY)(features)
    assert pixels.mask_features.shape == (1, TINY.dim, 16, 24)
    assert [tuple(x.shape[2:]) for x in pixels.levels] == [(2, 3), (4, 6), (8, 12)]
    assert all((x >= 0).all() for x in pixels.levels)
