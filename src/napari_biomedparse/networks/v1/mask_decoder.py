"""Mask decoder of v1: object queries read the image and the tokens of all prompts.

ARCHITECTURE of v1, sections 5 to 7. A prompt's mask is that of the query that is most
similar to its end token, so only that query's mask is computed at full size.

Attention masks are hard: a rounding error that turns the sign of one logit changes all
that follows. So on a CPU, what leads to these logits is computed in float64, and how
threads share the work decides nothing. Keys and values are kept in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from napari_biomedparse.networks.blocks import layers
from napari_biomedparse.networks.blocks.decoder import (
    LEVELS,
    CrossAttention,
    Decoder,
    ImageFeatures,
    MaskEmbed,
    SelfAttention,
    masks_of,
)
from napari_biomedparse.networks.blocks.layers import FeedForward, Norm
from napari_biomedparse.networks.blocks.text_encoder import TextEncoder
from napari_biomedparse.networks.network import NOWHERE, SlicePrediction

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.decoder import RandomField
    from napari_biomedparse.networks.blocks.layers import Attention
    from napari_biomedparse.networks.config import BiomedParseConfig

NORM_EPS = 1e-7
KEYS_AT_ONCE = 4096
"""Pixels projected at once, to keep what is in float64 small."""


class Head(NamedTuple):
    """What all queries say before a layer, or after the last one."""

    masks: Tensor  # [B, Q, h, w], logits at a quarter of the network's image size
    vectors: Tensor  # [B, Q, C], to be compared with the end tokens of prompts


class MaskDecoder(Decoder):
    """Masks of all prompts of a call, which influence each other, in each slice."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        dim, depth = config.dim, config.decoder_layers
        self.lang_encoder = TextEncoder(config, transformer="lang_encoder")
        self.query_feat = nn.Embedding(config.queries, dim)
        self.query_embed = nn.Embedding(config.queries, dim)
        self.level_embed = nn.Embedding(LEVELS, dim)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttention(config) for _ in range(depth)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttention(config) for _ in range(depth)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForward(dim, config.feedforward) for _ in range(depth)
        )
        self.decoder_norm = Norm(dim)
        self.mask_embed = MaskEmbed(dim)
        self.class_embed = nn.Parameter(torch.empty(dim, dim))
        nn.init.normal_(self.class_embed, std=dim**-0.5)

    @property
    def text_encoder(self) -> TextEncoder:
        """Prompts to tokens."""
        return self.lang_encoder

    def forward(
        self, image: ImageFeatures, tokens: Tensor, field: RandomField
    ) -> SlicePrediction:
        """Decode all prompts together in every slice; see `Network.decode`.

        Nothing is random and nothing says whether a target exists: `field` is not used,
        the existence of every prompt is certain, and edges are nowhere.
        """
        slices = len(image.mask_features)
        words = tokens.any(dim=-1)  # [P, T]
        q = self.read(image, tokens[words].expand(slices, -1, -1))
        ends = tokens[torch.arange(len(tokens)), words.sum(dim=1) - 1]  # [P, C]
        chosen = self.similarity(q, ends).argmax(dim=1)  # [B, P]
        q = q.take_along_dim(chosen[..., None], dim=1)  # [B, P, C]
        embedding = self.mask_embed(self.decoder_norm(q)).float()
        masks = masks_of(embedding, image.mask_features.flatten(2))
        masks = masks.view(*chosen.shape, *image.mask_features.shape[-2:])
        certain = masks.new_full(chosen.shape, torch.inf)
        return SlicePrediction(masks, torch.full_like(masks, NOWHERE), certain)

    def read(
        self, image: ImageFeatures, words: Tensor, hidden: Tensor | None = None
    ) -> Tensor:
        """Let the queries read the image and the words; see `states`."""
        return self.states(image, words, hidden)[-1]

    def heads(self, image: ImageFeatures, words: Tensor, hidden: Tensor) -> list[Head]:
        """Return the predictions of all `states`, which training compares."""
        features = image.mask_features
        found = []
        for q in self.states(image, words, hidden):
            d = self.decoder_norm(q)
            masks = masks_of(self.mask_embed(d), features.flatten(2))
            masks = masks.view(*q.shape[:2], *features.shape[-2:])
            found.append(Head(masks, self._vectors(d)))
        return found

    def states(
        self, image: ImageFeatures, words: Tensor, hidden: Tensor | None = None
    ) -> list[Tensor]:
        """Return the queries [B, Q, C] before each layer, and after the last one.

        They read the image and the words [B, T, C]. `hidden`, bool [B, T], are words
        that fill up a batch: nothing sees them, and they see nothing.
        """
        queries = self.query_feat.num_embeddings
        words = words.to(self._precision(image.mask_features))
        q = self.query_feat.weight.to(words.dtype).expand(len(words), -1, -1)
        q_positions = self.query_embed.weight.to(words.dtype).expand_as(q)
        positions = torch.cat([q_positions, words], dim=1)  # [B, Q + T, C]
        t, visible, states = words, None, [q]
        if hidden is not None:
            visible = ~torch.cat([hidden.new_zeros(q.shape[:2]), hidden], dim=1)
            visible = (visible[:, :, None] & visible[:, None])[:, None]
        for i, cross_attention in enumerate(self.transformer_cross_attention_layers):
            seen = self.visible_keys(q, image, i)
            q = cross_attention(q, q_positions, image.keys[i], image.values[i], seen)
            s = self.transformer_self_attention_layers[i](
                torch.cat([q, t], dim=1), positions, visible
            )
            s = self.transformer_ffn_layers[i](s)
            q, t = s[:, :queries], s[:, queries:]
            states.append(q)
        return states

    def project(
        self, attention: Attention, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Project the pixels of a level, [B, K, C] each, for a layer's attention."""
        exact = self._precision(key) if key.dtype == torch.float32 else key.dtype
        parts = [
            [
                x.to(key.dtype)
                for x in attention.project_memory(some.to(exact), same.to(exact))
            ]
            for some, same in zip(
                *(torch.split(x, KEYS_AT_ONCE, dim=1) for x in (key, value)),
                strict=True,
            )
        ]
        keys, values = (torch.cat(each, dim=2) for each in zip(*parts, strict=True))
        return keys, values

    def _precision(self, features: Tensor) -> torch.dtype:
        """Precision of queries and words, for the features of an image."""
        exact = layers.apart(features) and features.dtype == torch.float32
        return torch.float64 if exact and not self.training else torch.float32

    def visible_keys(self, q: Tensor, image: ImageFeatures, call: int) -> Tensor:
        """Choose the pixels where a query's mask is, bool [B, 1, Q, K].

        A query whose mask is empty sees all pixels.
        """
        with torch.no_grad():
            embedding = self.mask_embed(self.decoder_norm(q))
            logits = masks_of(embedding, image.level_mask_features[call % LEVELS])
            # In float32, as the original: 0.5 also for logits just below 0.
            visible = logits.float().sigmoid() >= 0.5
            return (visible | ~visible.any(dim=-1, keepdim=True))[:, None]

    def similarity(self, q: Tensor, ends: Tensor) -> Tensor:
        """Cosines of queries [B, Q, C] and end tokens [P, C] of prompts, [B, Q, P]."""
        v = normalised(self._vectors(self.decoder_norm(q)))
        return v @ normalised(ends.to(q.dtype)).T.expand(len(q), -1, -1)

    def _vectors(self, d: Tensor) -> Tensor:
        """Make normed queries [B, Q, C] comparable with end tokens."""
        vectors: Tensor = d @ self.class_embed.to(d.dtype).expand(len(d), -1, -1)
        return vectors


def normalised(x: Tensor) -> Tensor:
    """Divide vectors [..., C] by their length and a little more."""
    unit: Tensor = x / (x.norm(dim=-1, keepdim=True) + NORM_EPS)
    return unit
