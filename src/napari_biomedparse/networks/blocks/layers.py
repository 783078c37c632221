"""Layers that several parts of the networks share."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False
    ) -> Tensor:
        """Attend from [N, Q, C] to `key` and `value` [N, K, C]; see `attend`."""
        keys, values = self.project_memory(key, value)
        return self.attend(query, keys, values, causal=causal)

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
        see a key. With `causal`, position i sees positions up to i only.
        """
        weight_q, _, _ = self.in_proj_weight.chunk(3)
        bias_q, _, _ = self.in_proj_bias.chunk(3)
        queries = self._split(linear_each(query, weight_q, bias_q))
        mixed = F.scaled_dot_product_attention(
            queries.to(keys.dtype), keys, values, attn_mask=visible, is_causal=causal
        )  # [N, heads, Q, C / heads]
        merged: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2).to(query.dtype))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        """[N, L, C] -> [N, heads, L, C / heads]."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Post-norm feed-forward layer, ``LN(x + linear2(relu(linear1(x))))``."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = LinearEach(dim, hidden)
        self.linear2 = LinearEach(hidden, dim)
        self.norm = nn.LayerNorm(dim)

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


def linear_each(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer to the items of a batch, each as a separate product.

    On a CPU, how a matrix product rounds may depend on its number of rows. With one
    product per item, results do not depend on the rest of the batch. All are computed
    in one call: the weights stay in the caches, and threads share the items.

    [N, L, C], [D, C] and [D] -> [N, L, D]. With any other number of axes, `x` is
    treated as one item.
    """
    if x.ndim != 3 or not apart(x):
        return F.linear(x, weight, bias)
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
