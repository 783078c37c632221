"""Mask decoder of v2 and BoltzFormer: queries and prompt tokens read the image.

ARCHITECTURE section 5. In v2 a classifier token reads the queries, and the last queries
are those of edges. In BoltzFormer (section 6 of its own) there are neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from napari_biomedparse.networks.blocks import layers
from napari_biomedparse.networks.blocks.decoder import (
    LEVELS,
    CrossAttention,
    Decoder,
    ImageFeatures,
    MaskEmbed,
    RandomField,
    SelfAttention,
    attentions,
    hidden_keys,
    masks_of,
)
from napari_biomedparse.networks.blocks.layers import FeedForward, LinearEach, Norm
from napari_biomedparse.networks.blocks.text_encoder import TextEncoder
from napari_biomedparse.networks.network import SlicePrediction

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig


class BoltzmannDecoder(Decoder):
    """Masks, edges and existence of each prompt in each slice.

    Without a classifier token, there is no existence. `class_embed` belongs to the
    published weights; masks and existence do not use it.
    """

    def __init__(self, config: BiomedParseConfig, *, classifies: bool = True) -> None:
        super().__init__()
        self.separates_losses = True
        """Whether existence does not teach the masks, nor positions the text, as in
        the originals."""
        dim, depth = config.dim, config.decoder_layers
        self.queries = config.queries
        self.edge_queries = config.edge_queries
        self.language_encoder = TextEncoder(config)
        self.classifies = classifies
        end = "_" if classifies else ""  # as in the published weights
        self._query_names = f"query_feat{end}", f"query_embed{end}"
        for name in self._query_names:
            self.add_module(name, nn.Embedding(config.queries, dim))
        if classifies:
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
        if classifies:
            self.classifier_cross_attention_layers = stack(CrossAttention)
            self.classifier_ffn_layers = stack(feed_forward)
        self.decoder_norm = Norm(dim)
        self.mask_embed = MaskEmbed(dim)
        if classifies:
            self.classifier = LinearEach(dim, 1)
        self.class_embed = nn.Parameter(torch.zeros(dim, dim))

    @property
    def text_encoder(self) -> TextEncoder:
        """Prompts to tokens."""
        return self.language_encoder

    def forward(
        self, image: ImageFeatures, tokens: Tensor, field: RandomField
    ) -> SlicePrediction:
        """Decode every prompt in every slice; see `BiomedParse.decode`."""
        return self._read_out(*self.embed(image, tokens, field), image, len(tokens))

    def embed(
        self, image: ImageFeatures, tokens: Tensor, field: RandomField
    ) -> tuple[Tensor, Tensor]:
        """Return mask embeddings [N, Q, C], N slices times prompts, and classifiers.

        Classifier tokens are [N, L, C], equal L times, or [0] if there are none. See
        `BiomedParse.decode` for the arguments; the batch is slice-major.
        """
        slices, prompts = image.mask_features.shape[0], tokens.shape[0]
        feat, embed = (
            cast("Tensor", self.get_submodule(name).weight)
            for name in self._query_names
        )
        q = feat.expand(slices * prompts, -1, -1)  # [N, Q, C]
        t = tokens.repeat(slices, 1, 1)  # [N, T, C], slice-major
        q_positions = embed.expand_as(q)
        placed = t.detach() if self.separates_losses else t
        positions = torch.cat([q_positions, placed], dim=1)  # [N, Q + T, C]
        c, classifiers = torch.empty(0), []
        if self.classifies:
            # On a CPU twice: how a product with a single row rounds depends on the
            # batch, the threads, and the memory alignment of the weights.
            copies = 2 if layers.apart(tokens) else 1
            c = self.classifier_query.weight.expand(slices * prompts, copies, -1)
            classifiers = attentions(self.classifier_cross_attention_layers)

        s = self.initial_self_attention_layer(torch.cat([q, t], dim=1), positions)
        q, t = s[:, : self.queries], s[:, self.queries :]
        q = self.initial_ffn_layer(q)
        for i in range(len(self.transformer_cross_attention_layers)):
            visible = self._visible_keys(q, image, i, field)
            q = self.transformer_cross_attention_layers[i](
                q, q_positions, image.keys[i], image.values[i], visible
            )
            s = self.transformer_self_attention_layers[i](
                torch.cat([q, t], dim=1), positions
            )
            q, t = s[:, : self.queries], s[:, self.queries :]
            q = self.transformer_ffn_layers[i](q)
            if self.classifies:
                read = s.detach() if self.separates_losses else s
                keys, values = classifiers[i].project_memory(read + positions, read)
                c = self.classifier_cross_attention_layers[i](c, 0, keys, values)
                c = self.classifier_ffn_layers[i](c)
        return self.mask_embed(self.decoder_norm(q)), c

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
            logits = masks_of(embedding, features)[:, None]  # [N, 1, Q, K]
            if not layers.apart(q):
                return ~hidden_keys(logits, call, uniform)
            # One by one: rounding may depend on the position within a tensor.
            each = zip(torch.split(logits, 1), torch.split(uniform, 1), strict=True)
            return ~torch.cat([hidden_keys(one, call, own) for one, own in each])

    def _read_out(
        self, embedding: Tensor, c: Tensor, image: ImageFeatures, prompts: int
    ) -> SlicePrediction:
        """Average the masks of the mask queries, and of the edge queries."""
        sizes = [self.queries - self.edge_queries, self.edge_queries]
        mask, edge = torch.split(embedding, sizes, dim=1)
        means = torch.stack([mask.mean(dim=1), edge.mean(dim=1)], dim=1)  # [N, 2, C]
        slices, _, height, width = image.mask_features.shape
        logits = masks_of(means, image.mask_features.flatten(2))  # [N, 2, h * w]
        logits = logits.view(slices, prompts, 2, height, width)
        existence = self.classifier(c)[:, 0].view(slices, prompts)
        return SlicePrediction(logits[:, :, 0], logits[:, :, 1], existence)
