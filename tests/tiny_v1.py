"""BiomedParse v1 as small as the tiny network, its weights made as the goldens'."""

from __future__ import annotations

from dataclasses import replace

from golden_v1 import synthetic_network

from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1

CONFIG = replace(TINY, network="v1", queries=11, edge_queries=0)


def tiny_v1() -> BiomedParseV1:
    """Make the network; its masks cover a part of any image."""
    return synthetic_network(CONFIG)
