"""What the mask decoders of all networks share: layers, image side, attention masks.

ARCHITECTURE section 5. What depends on the slice alone is computed once per slice
(`Decoder.prepare`), whatever the number of prompts. Attention masks sampled by a
Boltzmann distribution are those of BoltzFormer (Zhao et al., CVPR 2025; section 5.4):
before each layer of the mask decoder, every query draws the pixels that it may attend
to, with uniform numbers from a `RandomField`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_biomedparse.networks.blocks import layers
from napari_biomedparse.networks.blocks.layers import (
    Attention,
    LinearEach,
    Norm,
    sine_positions,
)

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.pixel_decoder import PixelFeatures
    from napari_biomedparse.networks.blocks.text_encoder import TextEncoder
    from napari_biomedparse.networks.config import BiomedParseConfig

LEVELS = 3
DRAWN_SHARE = 0.1
"""Number of draws per query, as a fraction of the keys."""

RandomField = Callable[[int, int], Tensor]
"""``field(call, keys)``: uniform numbers in [0, 1) for head call 0, 1, 2, ... and that
number of keys, as a tensor that broadcasts to [B, P, heads, queries, keys]."""


class ImageFeatures(NamedTuple):
    """What the mask decoder needs of a batch of slices."""

    mask_features: Tensor  # [B, C, h, w], at stride 4
    level_mask_features: tuple[Tensor, ...]  # [B, C, K], sampled at each level's pixels
    # Image side of each layer's cross-attention, [B, heads, K, C / heads].
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Memory that the features take up."""
        each = (self.mask_features, *self.level_mask_features, *self.keys, *self.values)
        return sum(x.untyped_storage().nbytes() for x in each)


def along(basis: Tensor, image: ImageFeatures) -> Tensor:
    """Return mask features along a basis [C, K], float16 [B, K, h, w]."""
    features = image.mask_features.float()
    return torch.einsum("ck,bchw->bkhw", basis.to(features.device), features).half()


class CrossAttention(nn.Module):
    """Post-norm cross-attention layer with residual."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        self.multihead_attn = Attention(config.dim, config.heads)
        self.norm = Norm(config.dim)

    def forward(
        self,
        x: Tensor,
        positions: Tensor | float,
        keys: Tensor,
        values: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Let tokens attend to a projected memory, which neighbours in N share.

        On a GPU those that share a memory are computed as one long sequence; on a CPU
        each separately, so that results do not depend on the rest of the batch.

        `x` and `positions` are [N, L, C], `keys` and `values` [B, heads, K, C / heads],
        N a multiple of B, `visible` bool [N, heads, L, K]. Returns [N, L, C].
        """
        query = x + positions
        share = len(x) // len(keys)
        if layers.apart(x):
            keys, values = _repeat(keys, share), _repeat(values, share)
        else:
            query = query.reshape(len(keys), -1, x.shape[-1])
            if visible is not None:
                visible = visible.view(len(keys), share, *visible.shape[1:])
                visible = visible.transpose(1, 2).flatten(2, 3)
        read = self.multihead_attn.attend(query, keys, values, visible=visible)
        y: Tensor = self.norm(x + read.view_as(x))
        return y


class SelfAttention(nn.Module):
    """Post-norm self-attention layer; positions enter queries and keys only."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.dim, config.heads)
        self.norm = Norm(config.dim)

    def forward(
        self, x: Tensor, positions: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """[N, L, C], positions [N, L, C], visible bool [N, 1, L, L] -> [N, L, C]."""
        placed = x + positions
        y: Tensor = self.norm(x + self.self_attn(placed, placed, x, visible=visible))
        return y


class MaskEmbed(nn.Module):
    """Three linear layers with ReLU between: query to mask embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LinearEach(dim, dim) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        first, second, last = self.layers
        y: Tensor = last(F.relu(second(F.relu(first(x)))))
        return y


class Decoder(nn.Module, ABC):
    """A mask decoder's image side; subclasses say what queries and prompts do."""

    level_embed: nn.Embedding
    transformer_cross_attention_layers: nn.ModuleList
    decoder_norm: Norm
    mask_embed: MaskEmbed

    @property
    @abstractmethod
    def text_encoder(self) -> TextEncoder:
        """Prompts to tokens."""

    def prepare(self, pixels: PixelFeatures) -> ImageFeatures:
        """Compute the image side of the decoder, which all prompts share."""
        levels, placed = [], []
        for embed, level in zip(self.level_embed.weight, pixels.levels, strict=True):
            tokens = level.flatten(2).transpose(1, 2) + embed.to(level.dtype)
            height, width = level.shape[-2:]
            positions = sine_positions(
                height, width, tokens.shape[-1], tokens.device, tokens.dtype
            )
            levels.append(tokens)
            placed.append(tokens + positions)
        projected = [
            self.project(layer, placed[i % LEVELS], levels[i % LEVELS])
            for i, layer in enumerate(
                attentions(self.transformer_cross_attention_layers)
            )
        ]
        # Sampling is linear, so it may precede the product with the mask embeddings.
        sampled = tuple(
            F.interpolate(
                pixels.mask_features, size=level.shape[-2:], mode="bilinear"
            ).flatten(2)
            for level in pixels.levels
        )
        return ImageFeatures(
            pixels.mask_features,
            sampled,
            tuple(keys for keys, _ in projected),
            tuple(values for _, values in projected),
        )

    def project(
        self, attention: Attention, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Project the pixels of a level, [B, K, C] each, for a layer's attention."""
        return attention.project_memory(key, value)


def masks_of(embedding: Tensor, features: Tensor) -> Tensor:
    """Multiply embeddings [N, Q, C] and features [B, C, K], shared by neighbours.

    Returns [N, Q, K]. On a CPU every item is a separate product: see `linear_each`.
    """
    share = len(embedding) // len(features)
    features = features.to(embedding.dtype)
    if layers.apart(embedding):
        each = zip(torch.split(embedding, share), features, strict=True)
        return torch.cat([own @ feature.expand(share, -1, -1) for own, feature in each])
    rows = embedding.reshape(len(features), -1, embedding.shape[-1])
    return (rows @ features).view(*embedding.shape[:2], -1)


def _repeat(shared: Tensor, times: int) -> Tensor:
    """Repeat each item of a batch, without a copy where possible."""
    if times == 1:
        return shared
    if len(shared) == 1:
        return shared.expand(times, *shared.shape[1:])
    return shared.repeat_interleave(times, dim=0)


def attentions(stack: nn.ModuleList) -> list[Attention]:
    """Return the attention of each of a stack of `CrossAttention` layers."""
    return [cast("CrossAttention", layer).multihead_attn for layer in stack]


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
