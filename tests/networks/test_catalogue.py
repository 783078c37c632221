"""What is known by name: each has its licence, and is built as it says."""

from __future__ import annotations

import subprocess
import sys

import torch
from safetensors import safe_open

from napari_biomedparse.networks.catalogue import (
    MODELS,
    available_models,
    build,
    targets_of,
)
from napari_biomedparse.networks.network import Network
from napari_biomedparse.samples import TITLES


def test_each_model_is_built_without_memory() -> None:
    for name, model in MODELS.items():
        assert model.name == name
        network = build(model.config)
        assert isinstance(network, Network)
        assert network.image_size == model.config.image_size
        assert {p.device for p in network.parameters()} == {torch.device("meta")}


def test_licences_are_those_of_the_files() -> None:
    assert "CC BY-NC-SA" in MODELS["v2"].licence
    assert not MODELS["tiny"].licence
    if "demo" in available_models():
        with safe_open(MODELS["demo"].file, "pt") as file:
            assert MODELS["demo"].licence == file.metadata()["licence"]


def test_models_are_listed_without_torch() -> None:
    code = (
        "import sys; from napari_biomedparse.networks.catalogue import MODELS; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_targets_of_the_demo_are_those_of_the_samples() -> None:
    assert targets_of("demo 0123") == tuple(TITLES.values())
    assert targets_of("v2") == targets_of("/data/demo.safetensors") == ()
