from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from napari_biomedparse.networks.blocks import layers
from napari_biomedparse.networks.blocks.layers import (
    Attention,
    FeedForward,
    Gelu,
    LinearEach,
    LinearHalves,
    SameConv,
    sine_positions,
    winograd,
    winograd_kernel,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows", [3, 7, 8, 20])
@pytest.mark.parametrize("threads", [1, 2])
def test_two_threads_share_a_linear_layer_in_bfloat16(rows: int, threads: int) -> None:
    torch.manual_seed(0)
    layer = LinearHalves(6, 8).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(2, rows, 6).to(torch.bfloat16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = layer(x)
    finally:
        torch.set_num_threads(before)
    expected = F.linear(x.float(), layer.weight.float(), layer.bias.float())
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=1e-2)


def test_items_of_a_batch_in_bfloat16_do_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    layer = LinearEach(32, 16).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(5, 9, 32).to(torch.bfloat16)
    together = layer(x)
    for one, alone in zip(x, together, strict=True):
        assert torch.equal(layer(one[None])[0], alone)


def test_gelu_overwrites_only_what_nobody_learns_from() -> None:
    x = torch.linspace(-3, 3, 7)
    expected = F.gelu(x)
    weight = x.clone().requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(Gelu()(x), expected)
    assert torch.equal(x, expected)
    Gelu()(weight * 1).sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0


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


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (5, 7), (37, 4), (40, 9)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_winograd_equals_the_plain_sum(
    size: tuple[int, int], channels_last: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, *size)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    weight, bias = torch.randn(20, 12, 3, 3), torch.randn(20)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    found = winograd(x, winograd_kernel(weight), bias)
    torch.testing.assert_close(found.double(), exact, atol=2e-4, rtol=1e-5)
    found = winograd(x, winograd_kernel(weight), None) + bias[:, None, None]
    torch.testing.assert_close(found.double(), exact, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_every_way_is_the_same_convolution(
    kernel: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    conv = SameConv(8, 12, kernel, bias=bias)
    x = torch.randn(2, 8, 9, 6)
    expected = F.conv2d(x, conv.weight, conv.bias, padding=kernel // 2)
    monkeypatch.setattr(layers, "WINOGRAD_CHANNELS", 8)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)
    assert (conv._winograd is not None) == (kernel == 3)


def test_new_weights_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "WINOGRAD_CHANNELS", 4)
    conv = SameConv(4, 4, 3).requires_grad_(False)
    x = torch.randn(1, 4, 8, 8)
    for change in (
        lambda: conv.weight.mul_(2),
        lambda: conv.load_state_dict({"weight": conv.weight + 1, "bias": conv.bias}),
        lambda: conv.load_state_dict(
            {"weight": conv.weight * 3, "bias": conv.bias}, assign=True
        ),
    ):
        conv(x)
        change()
        expected = F.conv2d(x, conv.weight, conv.bias, padding=1)
        torch.testing.assert_close(conv(x), expected, atol=1e-4, rtol=1e-4)


def test_learning_takes_the_differentiable_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "WINOGRAD_CHANNELS", 4)
    conv = SameConv(4, 4, 3)
    conv(torch.randn(1, 4, 8, 8)).sum().backward()
    assert conv.weight.grad is not None
