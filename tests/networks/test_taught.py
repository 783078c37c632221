"""A network with taught heads: what changes and what does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import CheckpointError
from napari_biomedparse.networks.blocks.filters import (
    CONTEXT,
    FILTERS,
    filter_logits,
    filter_slice,
)
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.taught import (
    PRESENT,
    TaughtNetwork,
    enlarged,
    presence,
    refine,
)
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import (
    TAUGHT,
    base_facts,
    is_small,
    load_model,
    model_identity,
)

TEXTS = ("nuclei", "membranes of cells")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heads(dim: int, prompts: int = 1, stages: int = 2) -> torch.Tensor:
    return drawn(prompts, stages, 2 + dim + FILTERS + CONTEXT) * 0.01


@pytest.fixture(scope="module")
def taught(tiny_model: BiomedParse) -> TaughtNetwork:
    dim = tiny_model.config.dim
    return TaughtNetwork(tiny_model, TEXTS[:1], heads(dim), torch.tensor([0.25])).eval()


def slices(count: int = 2) -> torch.Tensor:
    return drawn(count, 3, 64, 64, seed=3).clamp(-2, 2) * 60 + 127


def test_a_head_is_a_linear_function_of_features_filters_and_context() -> None:
    features, filters, logits = drawn(5, 4, 4), drawn(FILTERS, 16, 16), drawn(4, 4)
    head = heads(5)[0]
    large = F.interpolate(logits[None, None], (16, 16), mode="bilinear")[0, 0]
    wide = F.interpolate(features[None], (16, 16), mode="bilinear")[0]
    for row in head.double().numpy():
        planes = np.concatenate([wide, filters, filter_logits(large)])
        summed = row[0] * large.double().numpy() + row[1]
        summed += np.einsum("c,chw->hw", row[2:], planes.astype(np.float64))
        large = torch.from_numpy(summed).float()
    found = refine(head, logits, features, filters)
    torch.testing.assert_close(found, large, atol=1e-5, rtol=1e-5)


def test_prompts_without_a_head_alone_are_those_of_the_base_to_the_bit(
    taught: TaughtNetwork,
) -> None:
    mine, base = Engine(taught), Engine(taught.base)
    found = mine.predict(slices(), mine.encode_prompts(["vessels", TEXTS[1]]))
    for one, other in zip(
        found, base.predict(slices(), base.encode_prompts(["vessels", TEXTS[1]])),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(one, other)


def test_a_taught_prompt_is_refined_and_its_neighbour_enlarged(
    taught: TaughtNetwork,
) -> None:
    mine, base = Engine(taught), Engine(taught.base)
    texts = [TEXTS[1], TEXTS[0]]
    found = mine.predict(slices(), mine.encode_prompts(texts))
    plain = base.predict(slices(), base.encode_prompts(texts))
    image = taught.base.encode_image(slices())
    for at, one in enumerate(slices()):
        refined = refine(
            taught.heads[0],
            plain.mask_logits[at, 1],
            image.mask_features[at],
            filter_slice(one),
        )
        torch.testing.assert_close(found.mask_logits[at, 1], refined)
        highest = refined.flatten().sort(descending=True).values[:PRESENT].mean()
        torch.testing.assert_close(found.existence[at, 1], highest + 0.25)
        torch.testing.assert_close(presence(refined), highest)
    untaught = enlarged(plain.mask_logits[:, 0], (64, 64))
    torch.testing.assert_close(found.mask_logits[:, 0], untaught)
    assert torch.equal(found.existence[:, 0], plain.existence[:, 0])


def test_slices_do_not_depend_on_their_batch(taught: TaughtNetwork) -> None:
    engine = Engine(taught, cache_bytes=0)
    tokens = engine.encode_prompts(TEXTS)
    together = engine.predict(slices(3), tokens)
    for at in range(3):
        alone = engine.predict(slices(3)[at : at + 1], tokens)
        assert torch.equal(alone.mask_logits[0], together.mask_logits[at])


def written(folder: Path, **changes: object) -> Path:
    """Write a file of heads on the demo model, with changed facts or tensors."""
    base = load_model("demo")
    dim = base.config.dim
    tensors = {"heads": heads(dim), "gates": torch.zeros(1)}
    facts = {**base_facts(base), "texts": TEXTS[:1]}
    for name, value in changes.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        else:
            facts[name] = value  # type: ignore[assignment]
    path = folder / "mine.taught.safetensors"
    save_weights(path, tensors, {TAUGHT: json.dumps(facts)}, base.config)
    return path


def test_a_file_is_a_model_on_its_base(tmp_path: Path) -> None:
    path = written(tmp_path)
    model = load_model(path)
    assert isinstance(model, TaughtNetwork)
    assert model.texts == TEXTS[:1]
    assert torch.equal(model.heads, heads(model.config.dim))
    assert model_identity(model.base) == model_identity("demo")
    assert model_identity(model).startswith("mine.taught.safetensors ")
    assert is_small(str(path))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"checksum": "0" * 12}, "other weights"),
        ({"base": "no such model"}, "no model"),
        ({"heads": torch.zeros(1, 2, 7)}, "numbers for each prompt"),
        ({"gates": torch.zeros(2)}, "numbers for each prompt"),
        ({"gates": torch.tensor([torch.nan])}, "not finite"),
        ({"texts": 3}, "damaged"),
        ({"base": None}, "no model"),
    ],
)
def test_other_bases_and_damaged_files_are_refused(
    tmp_path: Path, changes: dict[str, object], fault: str
) -> None:
    with pytest.raises(CheckpointError, match=fault):
        load_model(written(tmp_path, **changes))
