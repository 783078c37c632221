"""Layers that several parts of the networks share: attention and convolution.

A 1x1 convolution is a linear layer of pixels. On a CPU, a wide 3x3 convolution is done
by Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016): a quarter of the multiplications and, in
float32, about twice the rounding error of the plain sum.
"""

from __future__ import annotations

import math
from functools import lru_cache
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


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be projected in advance.

    Parameters are named and laid out as in `torch.nn.MultiheadAttention`: rows of
    ``in_proj_weight`` in the order query, key, value.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = LinearEach(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        visible: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend from [N, Q, C] to `key` and `value` [N, K, C]; see `attend`."""
        keys, values = self.project_memory(key, value)
        return self.attend(query, keys, values, visible=visible, causal=causal)

    def project_memory(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Project what is attended to: [N, K, C] each to [N, heads, K, C / heads].

        Computed in the precision of the memory if that is lower than the weights'.
        """
        _, weight_k, weight_v = self.in_proj_weight.to(key.dtype).chunk(3)
        _, bias_k, bias_v = self.in_proj_bias.to(key.dtype).chunk(3)
        return (
            self._split(linear_each(key, weight_k, bias_k)),
            self._split(linear_each(value, weight_v, bias_v)),
        )

    def attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        visible: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend from `query` [N, Q, C] to `keys` and `values` of `project_memory`.

        `visible`, bool and broadcastable to [N, heads, Q, K], is True where a query may
        see a key. With `causal`, position i sees positions up to i only. The precision
        is that of the keys, or float64 with queries of float64.
        """
        weight_q, _, _ = self.in_proj_weight.chunk(3)
        bias_q, _, _ = self.in_proj_bias.chunk(3)
        queries = self._split(linear_each(query, weight_q, bias_q))
        dtype = query.dtype if query.dtype == torch.float64 else keys.dtype
        mixed = F.scaled_dot_product_attention(
            queries.to(dtype),
            keys.to(dtype),
            values.to(dtype),
            attn_mask=visible,
            is_causal=causal,
        )  # [N, heads, Q, C / heads]
        merged: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2).to(query.dtype))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        """[N, L, C] -> [N, heads, L, C / heads]."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class Norm(nn.LayerNorm):
    """Layer normalisation in the precision of what is normalised."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class FeedForward(nn.Module):
    """Post-norm feed-forward layer, ``LN(x + linear2(relu(linear1(x))))``."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = LinearEach(dim, hidden)
        self.linear2 = LinearEach(hidden, dim)
        self.norm = Norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        y: Tensor = self.norm(x + self.linear2(F.relu(self.linear1(x))))
        return y


def apart(x: Tensor) -> bool:
    """Return whether the items of a batch are computed as separate products.

    They are on a CPU. A GPU is faster with few large products.
    """
    return x.device.type == "cpu"


class LinearEach(nn.Linear):
    """`linear_each` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., D]."""
        return linear_each(x, self.weight, self.bias)


class Gelu(nn.Module):
    """Gaussian error linear unit, exact; in place unless gradients are wanted."""

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]."""
        if torch.is_grad_enabled():
            return F.gelu(x)
        y: Tensor = torch.ops.aten.gelu_(x)
        return y


class LinearHalves(nn.Linear):
    """A linear layer that two threads share, whatever the shape of its result.

    oneDNN leaves a product in bfloat16 whose result is nearly square to one of two
    threads (2.0 to 2.1 times as fast in two halves; 1 or 4 and more threads are well
    used as it is).
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., D]."""
        rows = x.numel() // x.shape[-1]
        square = 2 * self.out_features < 3 * rows < 5 * self.out_features
        low = x.device.type == "cpu" and x.dtype == torch.bfloat16
        if not (low and square and torch.get_num_threads() == 2):
            return super().forward(x)
        halves = [
            super(LinearHalves, self).forward(h) for h in x.flatten(0, -2).chunk(2)
        ]
        return torch.cat(halves).view(*x.shape[:-1], -1)


def linear_each(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer to the items of a batch, each as a separate product.

    On a CPU, how a matrix product rounds may depend on its number of rows. With one
    product per item, results do not depend on the rest of the batch. All are computed
    in one call: the weights stay in the caches, and threads share the items.

    [N, L, C], [D, C] and [D] -> [N, L, D], in the precision of `x`. With any other
    number of axes, `x` is treated as one item.
    """
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if x.ndim != 3 or not apart(x):
        return F.linear(x, weight, bias)
    if x.dtype == torch.bfloat16:  # several together would copy the weights
        return torch.stack([F.linear(one, weight, bias) for one in x])
    return torch.baddbmm(bias, x, weight.T.expand(len(x), -1, -1))


@lru_cache(maxsize=32)
def sine_positions(
    height: int, width: int, dim: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Sine position encoding of a pixel grid (ARCHITECTURE section 5.1).

    Returns [height * width, dim], row-major: the first half of the channels encodes the
    row, the second half the column. Shared between calls: do not write into it.
    """
    half = dim // 2
    exponent = 2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half
    wavelength = 10000.0**exponent  # [half]

    def encode(size: int) -> Tensor:
        position = torch.arange(1, size + 1, dtype=torch.float32)
        angle = position * (2 * math.pi) / (size + 1e-6)
        angle = angle[:, None] / wavelength  # [size, half]
        even = torch.arange(half) % 2 == 0
        return torch.where(even, angle.sin(), angle.cos())

    rows = encode(height)[:, None].expand(height, width, half)
    columns = encode(width)[None, :].expand(height, width, half)
    grid = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return grid.to(device=device, dtype=dtype)


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
    right = _TILE * columns - width + 1
    y = x.new_empty(batch, rows, _TILE, columns, _TILE, dim)
    for one, result in zip(x.permute(0, 2, 3, 1), y, strict=True):
        for start in range(0, rows, _STRIP):
            first, end = _TILE * start - 1, _TILE * min(start + _STRIP, rows) + 1
            above, below = max(0, -first), max(0, end - height)
            image = F.pad(one[max(0, first) : end], (0, 0, 1, right, above, below))
            windows = image.unfold(0, _WINDOW, _TILE).unfold(1, _WINDOW, _TILE)
            strip = windows.permute(3, 4, 0, 1, 2).reshape(_WINDOW**2, -1)
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
