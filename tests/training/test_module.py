"""What is trained: the loss falls, and each slice has a field of its own."""

from __future__ import annotations

import numpy as np
import torch

from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.training.module import TrainingModule, drawn_field
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.slices import Batch, Sample, SliceBatches
from napari_biomedparse.training.volumes import TrainingVolume
from napari_biomedparse.training.wordings import Wordings


def squares() -> Batch:
    image = np.full((3, 64, 64), 60, np.uint8)
    image[:, 16:40, 16:40] = 200
    labels = (image == 200).astype(np.uint8)
    wordings = Wordings({1: ("square",)}, absent=("circle",))
    volume = TrainingVolume("a", "a", image, labels, wordings, (0,))
    samples = [Sample(0, 0, place) for place in range(2)]
    options = FinetuneOptions(batch_size=2, prompts=2)
    return SliceBatches([volume], samples, options, 64, None)[0]


def model() -> BiomedParse:
    torch.manual_seed(0)
    return BiomedParse(TINY)


def test_the_loss_falls_and_only_matrices_and_kernels_decay() -> None:
    module = TrainingModule(
        model(), FinetuneOptions(learning_rate=3e-3, weight_decay=0.1)
    )
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    table = module.model.mask_decoder.language_encoder.encoder_transformer
    assert any(p is table.token_embedding.weight for p in spared["params"])
    batch, losses = squares(), []
    for step in range(8):
        loss = module.total(module.losses_and_masks(batch._replace(number=step))[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_each_slice_of_a_batch_has_a_field_of_its_own() -> None:
    network = model().eval()
    slices = torch.randint(0, 255, (2, 3, 64, 64)).float()
    device = torch.device("cpu")
    drawn: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(0)
    field = drawn_field(generator, (2, 1, TINY.heads, TINY.queries), device)

    def remembered(call: int, keys: int) -> torch.Tensor:
        drawn.append(field(call, keys))
        return drawn[-1]

    with torch.no_grad():
        tokens = network.encode_prompts(torch.randint(1000, 2000, (3, 5)))
        both = network.decode(network.encode_image(slices), tokens, remembered)
        for at in range(2):
            alone = network.decode(
                network.encode_image(slices[at : at + 1]),
                tokens,
                lambda call, keys, at=at: drawn[call][at, 0],  # type: ignore[misc]
            )
            torch.testing.assert_close(both.mask_logits[at], alone.mask_logits[0])
            torch.testing.assert_close(both.existence[at], alone.existence[0])
    assert not torch.equal(drawn[0][0], drawn[0][1])
