"""Convolutions that keep the size of an image, each computed the fastest way.

A 1x1 convolution is a linear layer of pixels. On a CPU, a wide 3x3 convolution is done
by Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016): a quarter of the multiplications and, in
float32, about twice the rounding error of the plain sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINOGRAD_CHANNELS = 256
"""Channels from which the transforms cost less than they save (measured: 2.7 times
faster at 512, 2 times at 256, 1.4 times at 128 channels and 128 x 128 pixels)."""
_STRIP = 8
"""Rows of tiles at a time, to keep intermediate results small."""
_TILE, _WINDOW = 4, 6
"""Side of a tile of the result, and of the image window that it depends on."""

_IMAGE = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
    device="cpu",
)
_KERNEL = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
    device="cpu",
)
_RESULT = torch.tensor(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    dtype=torch.float32,
    device="cpu",
)
# Rows and columns are transformed at once, by the Kronecker products.
_IMAGE_2D = torch.kron(_IMAGE, _IMAGE)  # [36, 36]
_KERNEL_2D = torch.kron(_KERNEL, _KERNEL)  # [36, 9]
_RESULT_2D = torch.kron(_RESULT, _RESULT)  # [16, 36]


class SameConv(nn.Conv2d):
    """Convolution of stride 1 with an odd kernel, zero-padded to keep the size."""

    def __init__(
        self, channels: int, dim: int, kernel: int, *, bias: bool = True
    ) -> None:
        super().__init__(channels, dim, kernel, padding=kernel // 2, bias=bias)
        self._winograd: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, dim, H, W], channels last in memory."""
        if self.kernel_size == (1, 1):
            pixels = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return pixels.permute(0, 3, 1, 2)
        if self._pays_winograd(x):
            return winograd(x, self._winograd_kernel(), self.bias)
        return super().forward(x)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the transformed weights out of copies and pickles."""
        return {**self.__dict__, "_winograd": None}

    def _pays_winograd(self, x: Tensor) -> bool:
        learning = torch.is_grad_enabled() and (
            x.requires_grad or self.weight.requires_grad
        )
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and self.kernel_size == (3, 3)
            and min(self.in_channels, self.out_channels) >= WINOGRAD_CHANNELS
            and not learning
        )

    def _winograd_kernel(self) -> Tensor:
        """Return the transformed weights, cached until the weights change."""
        weight = self.weight
        version = None if weight.is_inference() else weight._version
        key = (id(weight), weight.data_ptr(), version)
        if self._winograd is None or self._winograd[0] != key:
            self._winograd = key, winograd_kernel(weight)
        return self._winograd[1]


def winograd_kernel(weight: Tensor) -> Tensor:
    """Transform the weights of a 3x3 convolution, [O, C, 3, 3] -> [36, O, C]."""
    taps = weight.detach().flatten(0, 1).flatten(1)  # [O * C, 9]
    transformed = (_KERNEL_2D @ taps.T.double()).float()
    return transformed.view(-1, *weight.shape[:2])


def winograd(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with a 3x3 kernel, zero-padded, tile by tile.

    float32 [B, C, H, W], [36, O, C] from `winograd_kernel` and [O] -> [B, O, H, W],
    channels last in memory.
    """
    batch, channels, height, width = x.shape
    dim = kernel.shape[1]
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    below, right = _TILE * rows - height + 1, _TILE * columns - width + 1
    image = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below))
    windows = image.unfold(1, _WINDOW, _TILE).unfold(2, _WINDOW, _TILE)
    windows = windows.permute(0, 4, 5, 1, 2, 3)  # [B, 6, 6, rows, columns, C]
    y = x.new_empty(batch, rows, _TILE, columns, _TILE, dim)
    for one, result in zip(windows, y, strict=True):
        for start in range(0, rows, _STRIP):
            strip = one[:, :, start : start + _STRIP].reshape(_WINDOW**2, -1)
            spectrum = (_IMAGE_2D @ strip).view(_WINDOW**2, -1, channels)
            product = torch.bmm(spectrum, kernel.mT)  # [36, tiles, O]
            tiles = (_RESULT_2D @ product.flatten(1)).view(
                _TILE, _TILE, -1, columns, dim
            )
            result[start : start + _STRIP] = tiles.permute(2, 0, 3, 1, 4)
    y = y.view(batch, _TILE * rows, _TILE * columns, dim)[:, :height, :width]
    if bias is not None:
        y += bias
    return y.permute(0, 3, 1, 2)
