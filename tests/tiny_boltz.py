"""BoltzFormer as small as the tiny network, its weights made as the goldens'."""

from __future__ import annotations

from dataclasses import replace

from golden_boltz import synthetic_network

from napari_biomedparse.networks.boltzformer.boltzformer import BoltzFormer
from napari_biomedparse.networks.config import TINY

HIERA = replace(
    TINY,
    network="boltzformer",
    backbone="hiera",
    backbone_heads=(1, 2, 2, 4),
    backbone_windows=(8, 4, 2, 2),
    global_blocks=(3, 3, 3),
    neck_width=16,
    queries=5,
    edge_queries=0,
    output_layer=True,
)
FOCAL = replace(TINY, network="boltzformer", queries=5, edge_queries=0)


def tiny_boltz() -> BoltzFormer:
    """Make the network; its masks cover a part of any image."""
    return synthetic_network(HIERA)
