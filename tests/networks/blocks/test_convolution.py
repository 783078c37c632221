"""The fast convolutions beside the plain one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from napari_biomedparse.networks.blocks import convolution
from napari_biomedparse.networks.blocks.convolution import (
    SameConv,
    winograd,
    winograd_kernel,
)


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
    monkeypatch.setattr(convolution, "WINOGRAD_CHANNELS", 8)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)
    assert (conv._winograd is not None) == (kernel == 3)


def test_new_weights_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "WINOGRAD_CHANNELS", 4)
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
    monkeypatch.setattr(convolution, "WINOGRAD_CHANNELS", 4)
    conv = SameConv(4, 4, 3)
    conv(torch.randn(1, 4, 8, 8)).sum().backward()
    assert conv.weight.grad is not None
