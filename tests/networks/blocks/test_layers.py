from __future__ import annotations

import torch
from torch import nn

from napari_biomedparse.networks.blocks.layers import (
    Attention,
    FeedForward,
    sine_positions,
)

CPU = torch.device("cpu")


def test_attention_equals_torch() -> None:
    torch.manual_seed(0)
    ours = Attention(32, heads=4)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = (
        torch.randn(2, 5, 32),
        torch.randn(2, 9, 32),
        torch.randn(2, 9, 32),
    )
    torch.testing.assert_close(
        ours(query, key, value), theirs(query, key, value)[0], atol=1e-6, rtol=1e-5
    )


def test_visible_keys_and_causality_equal_torch() -> None:
    torch.manual_seed(0)
    ours = Attention(32, heads=4)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 32)
    hidden = torch.ones(6, 6).triu(1).bool()
    expected = theirs(x, x, x, attn_mask=hidden)[0]
    keys, values = ours.project_memory(x, x)
    masked = ours.attend(x, keys, values, visible=~hidden)
    torch.testing.assert_close(masked, expected, atol=1e-6, rtol=1e-5)
    causal = ours(x, x, x, causal=True)
    torch.testing.assert_close(causal, expected, atol=1e-6, rtol=1e-5)


def test_feed_forward_formula() -> None:
    torch.manual_seed(0)
    layer = FeedForward(8, 16)
    x = torch.randn(3, 8)
    hidden = torch.relu(x @ layer.linear1.weight.T + layer.linear1.bias)
    y = x + hidden @ layer.linear2.weight.T + layer.linear2.bias
    y = (y - y.mean(-1, keepdim=True)) / (
        y.var(-1, keepdim=True, correction=0) + 1e-5
    ).sqrt()
    torch.testing.assert_close(layer(x), y, atol=1e-5, rtol=1e-5)


def test_sine_positions_entries() -> None:
    grid = sine_positions(4, 3, 512, CPU, torch.float32).double()
    assert grid.shape == (12, 512)
    row, column, j = 2, 1, 7  # the third row, the second column
    wavelength = 10000 ** (2 * (j // 2) / 256)
    y = torch.tensor(2 * torch.pi * (row + 1) / (4 + 1e-6) / wavelength)
    x = torch.tensor(2 * torch.pi * (column + 1) / (3 + 1e-6) / wavelength)
    entry = grid[row * 3 + column]
    torch.testing.assert_close(entry[j], y.cos().double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(entry[256 + j], x.cos().double(), atol=1e-6, rtol=0)
