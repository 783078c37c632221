"""Networks to be trained: initial values, pretrained parts, nothing lost silently."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_boltz import FOCAL, HIERA

from napari_biomedparse.errors import CheckpointError, OptionError
from napari_biomedparse.networks import start
from napari_biomedparse.networks.boltzformer.boltzformer import BoltzFormer
from napari_biomedparse.networks.config import ARCHITECTURES, TINY, BiomedParseConfig
from napari_biomedparse.networks.start import start_network
from napari_biomedparse.networks.weights import config_of, load_model


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, BiomedParseConfig]:
    """Have small networks under the names of the published ones."""
    light = replace(HIERA, network="v2", queries=16, edge_queries=4, output_layer=False)
    known = {"hiera-s": HIERA, "focal-l": FOCAL, "v2-light": light}
    monkeypatch.setattr(start, "ARCHITECTURES", known)
    return known


def sam2(path: Path, **changes: torch.Tensor) -> Path:
    """Write a file as SAM 2's, with an image encoder that fits."""
    model = BoltzFormer(HIERA).state_dict()
    tensors = {
        name.replace("backbone.", "image_encoder."): value + 1
        for name, value in model.items()
        if name.startswith("backbone.")
    }
    tensors |= {"memory_attention.norm.weight": torch.ones(3), **changes}
    torch.save({"model": tensors}, path)
    return path


def test_the_published_ones_are_listed() -> None:
    assert [*ARCHITECTURES] == [
        "focal-l",
        "hiera-s",
        "hiera-bp",
        "v2-light",
        "v2-lite",
        "demo-lite",
    ]
    sizes = [ARCHITECTURES[name].image_size for name in ("hiera-s", "v2-light")]
    assert sizes == [1024, 512]
    with pytest.raises(OptionError, match="choose one of hiera-s"):
        start_network("hiera-xl")


def test_a_seed_draws_the_same_values_with_the_originals_spread() -> None:
    one, again, other = (start_network("hiera-s", seed=s).model for s in (1, 1, 2))
    first, same, third = (x.state_dict() for x in (one, again, other))
    assert all(torch.equal(first[name], same[name]) for name in first)
    name = "sem_seg_head.predictor.query_feat.weight"
    assert not torch.equal(first[name], third[name])
    text = "sem_seg_head.predictor.language_encoder."
    assert first[f"{text}lang_proj"].std() == pytest.approx(1.0, rel=0.1)
    table = first[f"{text}encoder_transformer.token_embedding.weight"]
    assert table.std() == pytest.approx(0.02, rel=0.02)
    assert not first["backbone.trunk.pos_embed"].any()
    focal = start_network("focal-l").model.state_dict()
    assert (focal["backbone.layers.0.blocks.0.gamma_1"] == 1e-4).all()


def test_backbone_of_sam2_and_the_rest_of_a_base(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    base = load_model("tiny")
    begun = start_network(
        "hiera-s", backbone=sam2(tmp_path / "sam2.pt"), base=base, seed=3
    )
    found, drawn = begun.model.state_dict(), start_network("hiera-s", seed=3)
    assert begun.knows_text and not drawn.knows_text
    text = "sem_seg_head.predictor.language_encoder.lang_proj"
    torch.testing.assert_close(found[text], base.state_dict()[text])
    queries = base.state_dict()["sem_seg_head.predictor.query_feat_.weight"]
    own = found["sem_seg_head.predictor.query_feat.weight"]
    torch.testing.assert_close(own, queries[:5])
    inner = "backbone.trunk.blocks.0.attn.qkv.weight"
    assert not torch.equal(found[inner], drawn.model.state_dict()[inner])
    narrow = "sem_seg_head.pixel_decoder.input_proj.weight"  # of another width
    torch.testing.assert_close(found[narrow], drawn.model.state_dict()[narrow])
    assert "not needed: memory_attention.norm" in caplog.text


def test_a_file_without_the_whole_backbone_is_refused(tmp_path: Path) -> None:
    bad = {"image_encoder.trunk.pos_embed": torch.zeros(1, 8, 3, 3)}
    with pytest.raises(CheckpointError, match="1 tensors are missing or of another"):
        start_network("hiera-s", backbone=sam2(tmp_path / "bad.pt", **bad))
    with pytest.raises(CheckpointError, match="pretrained backbone of focal-l"):
        start_network("focal-l", backbone=sam2(tmp_path / "sam2.pt"))


def test_the_text_encoder_of_xdecoder_is_renamed_rather_than_lost(
    tmp_path: Path,
) -> None:
    ours = "sem_seg_head.predictor.language_encoder."
    theirs = "sem_seg_head.predictor.lang_encoder."
    tensors = {}
    for name, value in BoltzFormer(FOCAL).state_dict().items():
        name = name.replace(f"{ours}encoder_transformer.", f"{theirs}lang_encoder.")
        tensors["model." + name.replace(ours, theirs)] = value + 1
    torch.save(tensors, tmp_path / "xdecoder.pt")
    begun = start_network("focal-l", backbone=tmp_path / "xdecoder.pt")
    assert begun.knows_text
    for name, value in begun.model.state_dict().items():
        key = name.replace(f"{ours}encoder_transformer.", f"{theirs}lang_encoder.")
        torch.testing.assert_close(
            value, tensors["model." + key.replace(ours, theirs)], msg=name
        )


def test_a_light_v2_takes_what_fits_from_v2(tmp_path: Path) -> None:
    base = load_model("tiny")
    begun = start_network("v2-light", base=base)
    assert begun.model.config.edge_queries == 4
    names = ("classifier.weight", "query_feat_.weight", "class_embed")
    for name in (f"sem_seg_head.predictor.{end}" for end in names):
        torch.testing.assert_close(
            begun.model.state_dict()[name], base.state_dict()[name]
        )
    assert config_of("tiny") == TINY
