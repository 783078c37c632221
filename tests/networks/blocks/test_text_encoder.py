from __future__ import annotations

import torch

from napari_biomedparse.networks.blocks.text_encoder import (
    NORM_EPS,
    TextEncoder,
    TextMlp,
)
from napari_biomedparse.networks.config import TINY


def test_later_tokens_never_change_earlier_ones() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TINY).eval()
    ids = torch.randint(0, TINY.vocabulary, (2, 20))
    whole = encoder(ids)
    torch.testing.assert_close(encoder(ids[:, :7]), whole[:, :7], atol=1e-5, rtol=1e-4)
    changed = ids.clone()
    changed[:, 7:] = 0
    torch.testing.assert_close(encoder(changed)[:, :7], whole[:, :7])
    assert (encoder(changed)[:, 7:] - whole[:, 7:]).abs().max() > 1e-3


def test_quick_gelu_and_norms() -> None:
    torch.manual_seed(0)
    mlp = TextMlp(4)
    x = torch.randn(3, 4)
    hidden = mlp.c_fc(x)
    expected = mlp.c_proj(hidden / (1 + torch.exp(-1.702 * hidden)))
    torch.testing.assert_close(mlp(x), expected)
    norms = [
        m for m in TextEncoder(TINY).modules() if isinstance(m, torch.nn.LayerNorm)
    ]
    assert len(norms) == 2 * TINY.text_layers + 1
    assert {m.eps for m in norms} == {NORM_EPS}
