"""The whole network of v1: names, and the statistics of its input."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from napari_biomedparse.networks.blocks.maskformer import MEAN, STD
from napari_biomedparse.networks.config import V1
from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1


def test_state_dict_is_that_of_the_manifest_but_for_what_prompts_do_not_need(
    shared: Path,
) -> None:
    path = shared / "reference_v1" / "state_dict_manifest.json"
    listed = json.loads(path.read_text())
    state = BiomedParseV1.unfilled(V1).state_dict()
    found = {name: list(x.shape) for name, x in state.items()}
    assert found == {
        name: shape
        for name, (shape, _) in listed["keys"].items()
        if name not in listed["unused_network_keys"]
    }


def test_each_colour_has_statistics_of_its_own() -> None:
    model = BiomedParseV1.unfilled(V1)
    seen = []
    model.backbone.forward = seen.append  # type: ignore[assignment]
    model.sem_seg_head = torch.nn.ModuleDict(  # type: ignore[assignment]
        {"pixel_decoder": torch.nn.Identity(), "predictor": model.mask_decoder}
    )
    model.mask_decoder.prepare = lambda pixels: pixels  # type: ignore[assignment]
    colours = torch.tensor(MEAN)[None, :, None, None] + torch.tensor(STD)[
        None, :, None, None
    ] * torch.arange(3).view(1, 3, 1, 1)
    model.encode_image(colours)
    torch.testing.assert_close(seen[0].flatten(), torch.arange(3.0))
