"""Boltzmann-sampled attention masks (BoltzFormer: Zhao et al., CVPR 2025).

ARCHITECTURE section 5.4. Before each layer of the mask decoder, every query draws the
pixels that it may attend to, with uniform numbers from a `RandomField`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

DRAWN_SHARE = 0.1
"""Number of draws per query, as a fraction of the keys."""

RandomField = Callable[[int, int], Tensor]
"""``field(call, keys)``: uniform numbers in [0, 1) for head call 0, 1, 2, ... and that
number of keys, as a tensor that broadcasts to [B, P, heads, queries, keys]."""


class SeededField:
    """A random field determined by a seed, the same for all slices and prompts.

    The result of a slice therefore depends neither on other slices and prompts nor on
    the order of computation, and a run can be repeated. The field is drawn on the CPU,
    so that all devices agree.
    """

    def __init__(
        self, seed: int, heads: int, queries: int, device: torch.device
    ) -> None:
        self._seed = seed
        self._shape = (heads, queries)
        self._device = device
        self._drawn: dict[tuple[int, int], Tensor] = {}

    def __call__(self, call: int, keys: int) -> Tensor:
        """Return the field of a head call, float32 [heads, queries, keys]."""
        if (call, keys) not in self._drawn:
            generator = torch.Generator().manual_seed(self._seed * 1009 + call)
            field = torch.rand((*self._shape, keys), generator=generator)
            self._drawn[call, keys] = field.to(self._device)
        return self._drawn[call, keys]


def hidden_keys(logits: Tensor, call: int, uniform: Tensor) -> Tensor:
    """Draw the keys that each query must not attend to, bool [..., Q, K].

    A key with mask probability p is drawn with the Boltzmann probability
    ``exp(p / T) / sum exp(p / T)``, T = 1 / (1 + call); it is hidden unless one of
    ``0.1 K`` draws hits it. If all keys of a query would be hidden, none is.

    `logits` are mask logits at the keys, float32 [..., Q, K], `call` is 0 before the
    first layer, and `uniform` broadcasts with `logits`.
    """
    hidden = uniform < never_drawn(logits, call)
    return hidden & ~hidden.all(dim=-1, keepdim=True)


def never_drawn(logits: Tensor, call: int) -> Tensor:
    """Probability that a key is not drawn, [..., Q, K] as `logits`; see `hidden_keys`.

    float32 as written: 1 - probability rounds, and the goldens round with it.
    """
    temperature = 1 / (1 + call)
    weight = torch.exp(logits.float().sigmoid() / temperature)
    probability = weight / weight.sum(dim=-1, keepdim=True)
    draws = math.floor(DRAWN_SHARE * logits.shape[-1])
    never: Tensor = (1 - probability) ** draws
    return never
