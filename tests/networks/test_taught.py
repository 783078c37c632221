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
from napari_biomedparse.networks.blocks import maskformer
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
    return drawn(prompts, stages, 2 + dim + sum(FILTERS) + sum(CONTEXT)) * 0.01


@pytest.fixture(scope="module")
def taught(tiny_model: BiomedParse) -> TaughtNetwork:
    dim = tiny_model.config.dim
    gates = torch.tensor([0.25])
    network = TaughtNetwork(tiny_model, TEXTS[:1], heads(dim), gates, tiny_model.basis)
    return network.eval()


def slices(count: int = 2) -> torch.Tensor:
    return drawn(count, 3, 64, 64, seed=3).clamp(-2, 2) * 60 + 127


def test_a_head_is_a_linear_function_of_features_filters_and_context() -> None:
    features, logits = drawn(5, 4, 4), drawn(2, 4, 4)
    planes = (features, *filter_slice(drawn(3, 16, 16)))
    mine = heads(5, prompts=2)
    found = refine(mine, logits, planes, (16, 16))
    for at in range(2):
        large = wide(logits[at : at + 1])[0]
        for row in mine[at].double().numpy():
            around = [stack[0] for stack in filter_logits(large[None])]
            every = np.concatenate([wide(stack) for stack in (*planes, *around)])
            summed = row[0] * large.double().numpy() + row[1]
            summed += np.einsum("c,chw->hw", row[2:], every.astype(np.float64))
            large = torch.from_numpy(summed).float()
        torch.testing.assert_close(found[at], large, atol=1e-4, rtol=1e-4)


def wide(maps: torch.Tensor, size: int = 16) -> torch.Tensor:
    return F.interpolate(maps[None], (size, size), mode="bilinear")[0]


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
        features = image.mask_features[at].half().float()
        planes = (features, *filter_slice(one))
        (refined,) = refine(taught.heads, plain.mask_logits[at, 1:], planes, (64, 64))
        torch.testing.assert_close(
            found.mask_logits[at, 1], refined, atol=1e-4, rtol=1e-4
        )
        highest = refined.flatten().sort(descending=True).values[:PRESENT].mean()
        torch.testing.assert_close(found.existence[at, 1], highest + 0.25)
        torch.testing.assert_close(presence(refined), highest)
    untaught = wide(plain.mask_logits[:, 0], 64)
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
    tensors = {"heads": heads(dim), "gates": torch.zeros(1), "basis": base.basis}
    facts = {**base_facts(base), "texts": TEXTS[:1]}
    for name, value in changes.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        else:
            facts[name] = value  # type: ignore[assignment]
    path = folder / "mine.taught.safetensors"
    save_weights(path, tensors, {TAUGHT: json.dumps(facts)}, base.config)
    return path


def test_features_are_kept_along_the_leading_directions_of_their_weights(
    taught: TaughtNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = taught.base
    features = base.encode_image(slices()).mask_features
    torch.testing.assert_close(
        base.summarize(base.encode_image(slices())), features.half()
    )
    monkeypatch.setattr(maskformer, "KEPT", 8)
    small = load_model("tiny")
    directions = small.basis
    assert directions.shape == (small.config.dim, 8)
    torch.testing.assert_close(directions.T @ directions, torch.eye(8))
    weight = small.pixel_decoder.mask_features.weight.flatten(1)  # type: ignore[attr-defined]
    lost = weight - directions @ (directions.T @ weight)
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(lost.square().sum(), values[8:].square().sum())
    kept = small.summarize(small.encode_image(slices()))
    assert kept.shape == (2, 8, 16, 16)
    assert kept.dtype == torch.float16


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
        ({"basis": torch.zeros(2, 2)}, "its directions"),
        ({"basis": torch.full((64, 64), torch.inf)}, "not finite"),
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
