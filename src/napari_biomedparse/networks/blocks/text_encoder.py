"""CLIP-style text encoder (Radford et al., ICML 2021); ARCHITECTURE section 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_biomedparse.networks.blocks.layers import Attention

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig

NORM_EPS = 1e-12


class TextMlp(nn.Module):
    """Two linear layers with QuickGELU, ``x * sigmoid(1.702 x)``, in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        hidden = self.c_fc(x)
        y: Tensor = self.c_proj(hidden * torch.sigmoid(1.702 * hidden))
        return y


class TextBlock(nn.Module):
    """Pre-norm causal self-attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = TextMlp(width)
        self.ln_2 = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[P, L, C] -> [P, L, C]."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, causal=True)
        x = x + self.mlp(self.ln_2(x))
        return x


class TextTransformer(nn.Module):
    """Token ids to contextual token vectors."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocabulary, width)
        self.positional_embedding = nn.Parameter(
            torch.empty(config.context_length, width)
        )
        nn.init.normal_(self.positional_embedding, std=0.01)
        self.resblocks = nn.ModuleList(
            TextBlock(width, config.heads) for _ in range(config.text_layers)
        )
        self.ln_final = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, ids: Tensor) -> Tensor:
        """[P, L] -> [P, L, width]."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        for block in self.resblocks:
            x = block(x)
        y: Tensor = self.ln_final(x)
        return y


class TextEncoder(nn.Module):
    """Token ids of prompts to token vectors in the decoder's space.

    `transformer` is its name in the published weights, which differs between networks.
    `logit_scale` belongs to the published weights; masks and existence do not use it.
    """

    def __init__(
        self, config: BiomedParseConfig, transformer: str = "encoder_transformer"
    ) -> None:
        super().__init__()
        self._transformer = transformer
        self.add_module(transformer, TextTransformer(config))
        self.lang_proj = nn.Parameter(torch.empty(config.text_width, config.dim))
        nn.init.normal_(self.lang_proj, std=config.text_width**-0.5)
        self.logit_scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids, int64 [P, L] -> [P, L, C], L at most the context length.

        Attention is causal: later tokens never change earlier vectors, so the ids may
        stop at a prompt's end token.
        """
        tokens: Tensor = self.get_submodule(self._transformer)(ids) @ self.lang_proj
        return tokens
