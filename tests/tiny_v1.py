"""BiomedParse v1 as small as the tiny network, its weights made as the goldens'."""

from __future__ import annotations

from dataclasses import replace

from golden_v1 import synthetic

from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1

CONFIG = replace(TINY, network="v1", queries=11, edge_queries=0)


def tiny_v1() -> BiomedParseV1:
    """Make the network; its masks cover a part of any image."""
    model = BiomedParseV1.unfilled(CONFIG)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    weights = {name: synthetic(name, shape) for name, shape in shapes.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)
