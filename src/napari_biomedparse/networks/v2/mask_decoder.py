"""Mask decoder: queries, prompt tokens and a classifier token read the image.

ARCHITECTURE section 5. What depends on the slice alone is computed once per slice
(`MaskDecoder.prepare`), whatever the number of prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_biomedparse.networks.blocks import layers
from napari_biomedparse.networks.blocks.boltzmann import RandomField, hidden_keys
from napari_biomedparse.networks.blocks.layers import (
    Attention,
    FeedForward,
    LinearEach,
    sine_positions,
)
from napari_biomedparse.networks.blocks.text_encoder import TextEncoder
from napari_biomedparse.networks.network import SlicePrediction

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig
    from napari_biomedparse.networks.v2.pixel_decoder import PixelFeatures

LEVELS = 3


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


class CrossAttention(nn.Module):
    """Post-norm cross-attention layer with residual."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        self.multihead_attn = Attention(config.dim, config.heads)
        self.norm = nn.LayerNorm(config.dim)

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
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """[N, L, C], positions [N, L, C] -> [N, L, C]."""
        placed = x + positions
        y: Tensor = self.norm(x + self.self_attn(placed, placed, x))
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


class MaskDecoder(nn.Module):
    """Masks, edges and existence of each prompt in each slice.

    `class_embed` belongs to the published weights; masks and existence do not use it.
    """

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        dim, depth = config.dim, config.decoder_layers
        self.queries = config.queries
        self.edge_queries = config.edge_queries
        self.language_encoder = TextEncoder(config)
        self.query_feat_ = nn.Embedding(config.queries, dim)
        self.query_embed_ = nn.Embedding(config.queries, dim)
        self.classifier_query = nn.Embedding(1, dim)
        self.level_embed = nn.Embedding(LEVELS, dim)

        def stack(layer: Callable[[BiomedParseConfig], nn.Module]) -> nn.ModuleList:
            return nn.ModuleList(layer(config) for _ in range(depth))

        def feed_forward(config: BiomedParseConfig) -> FeedForward:
            return FeedForward(dim, config.feedforward)

        self.initial_self_attention_layer = SelfAttention(config)
        self.initial_ffn_layer = feed_forward(config)
        self.transformer_cross_attention_layers = stack(CrossAttention)
        self.transformer_self_attention_layers = stack(SelfAttention)
        self.transformer_ffn_layers = stack(feed_forward)
        self.classifier_cross_attention_layers = stack(CrossAttention)
        self.classifier_ffn_layers = stack(feed_forward)
        self.decoder_norm = nn.LayerNorm(dim)
        self.mask_embed = MaskEmbed(dim)
        self.classifier = LinearEach(dim, 1)
        self.class_embed = nn.Parameter(torch.zeros(dim, dim))

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
            layer.project_memory(placed[i % LEVELS], levels[i % LEVELS])
            for i, layer in enumerate(
                _attentions(self.transformer_cross_attention_layers)
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

    def forward(
        self, image: ImageFeatures, tokens: Tensor, field: RandomField
    ) -> SlicePrediction:
        """Decode every prompt in every slice; see `BiomedParse.decode`."""
        slices, prompts = image.mask_features.shape[0], tokens.shape[0]
        q = self.query_feat_.weight.expand(slices * prompts, -1, -1)  # [N, Q, C]
        t = tokens.repeat(slices, 1, 1)  # [N, T, C], slice-major
        q_positions = self.query_embed_.weight.expand_as(q)
        positions = torch.cat([q_positions, t], dim=1)  # [N, Q + T, C]
        # On a CPU twice: how a product with a single row rounds depends on the batch,
        # the threads, and the memory alignment of the weights.
        copies = 2 if layers.apart(tokens) else 1
        c = self.classifier_query.weight.expand(slices * prompts, copies, -1)

        s = self.initial_self_attention_layer(torch.cat([q, t], dim=1), positions)
        q, t = s[:, : self.queries], s[:, self.queries :]
        q = self.initial_ffn_layer(q)
        classifiers = _attentions(self.classifier_cross_attention_layers)
        for i, classifier in enumerate(classifiers):
            visible = self._visible_keys(q, image, i, field)
            q = self.transformer_cross_attention_layers[i](
                q, q_positions, image.keys[i], image.values[i], visible
            )
            s = self.transformer_self_attention_layers[i](
                torch.cat([q, t], dim=1), positions
            )
            q, t = s[:, : self.queries], s[:, self.queries :]
            q = self.transformer_ffn_layers[i](q)
            keys, values = classifier.project_memory(s + positions, s)
            c = self.classifier_cross_attention_layers[i](c, 0, keys, values)
            c = self.classifier_ffn_layers[i](c)
        return self._read_out(q, c, image, prompts)

    def _visible_keys(
        self, q: Tensor, image: ImageFeatures, call: int, field: RandomField
    ) -> Tensor:
        """Draw the keys that the queries [N, Q, C] may attend to, [N, heads, Q, K]."""
        features = image.level_mask_features[call % LEVELS]  # [B, C, K]
        slices, _, keys = features.shape
        heads = image.keys[0].shape[1]
        uniform = field(call, keys).expand(
            slices, len(q) // slices, heads, self.queries, keys
        )
        uniform = uniform.flatten(0, 1)  # [N, heads, Q, K]
        with torch.no_grad():
            embedding = self.mask_embed(self.decoder_norm(q))  # [N, Q, C]
            logits = _masks(embedding, features)[:, None]  # [N, 1, Q, K]
            if not layers.apart(q):
                return ~hidden_keys(logits, call, uniform)
            # One by one: rounding may depend on the position within a tensor.
            each = zip(torch.split(logits, 1), torch.split(uniform, 1), strict=True)
            return ~torch.cat([hidden_keys(one, call, own) for one, own in each])

    def _read_out(
        self, q: Tensor, c: Tensor, image: ImageFeatures, prompts: int
    ) -> SlicePrediction:
        """Average the masks of the mask queries, and of the edge queries."""
        embedding = self.mask_embed(self.decoder_norm(q))  # [N, Q, C]
        mask, edge = embedding.split(
            [self.queries - self.edge_queries, self.edge_queries], dim=1
        )
        means = torch.stack([mask.mean(dim=1), edge.mean(dim=1)], dim=1)  # [N, 2, C]
        slices, _, height, width = image.mask_features.shape
        logits = _masks(means, image.mask_features.flatten(2))  # [N, 2, h * w]
        logits = logits.view(slices, prompts, 2, height, width)
        existence = self.classifier(c)[:, 0].view(slices, prompts)
        return SlicePrediction(logits[:, :, 0], logits[:, :, 1], existence)


def _masks(embedding: Tensor, features: Tensor) -> Tensor:
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


def _attentions(layers: nn.ModuleList) -> list[Attention]:
    return [cast("CrossAttention", layer).multihead_attn for layer in layers]
