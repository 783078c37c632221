"""The models known by name: their weights, their licence, and how they are built.

Imports no torch, so that forms can list models quickly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from napari_biomedparse.networks.config import TINY, V1, V2, BiomedParseConfig

if TYPE_CHECKING:
    from napari_biomedparse.networks.network import Network


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository, pinned to one revision."""

    repository: str  # its owner and name
    name: str
    revision: str  # the commit used by default, which has this size and checksum
    size: int | None
    sha256: str | None  # hexadecimal; as the size, unknown of some files
    licence: str  # shown before the first download
    gigabytes: float = 0.0  # about

    @property
    def converted(self) -> str:
        """Name of the weights alone, made once from the file and kept beside it."""
        return str(Path(self.name).with_suffix(".safetensors"))

    @property
    def page(self) -> str:
        """Address of the page with the terms to accept."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def by_hand(self) -> str:
        """Advice for a computer without a connection."""
        return (
            f"Or download {self.page}/resolve/{self.revision}/{self.name} in a "
            "browser, on any computer, and give the path of the file as the model."
        )


PUBLISHED = HubFile(
    repository="microsoft/BiomedParse",
    name="biomedparse_v2.ckpt",
    revision="e473e5b2b1a3f44649734afd3dc7cf1770aaa9e2",
    gigabytes=4.5,
    size=4_460_902_829,
    sha256="6ea0bee43b983a7490e0b48689add96440c4405ca4b50b9f2fe21d5d03fd9440",
    licence=(
        "The BiomedParse v2 weights (microsoft/BiomedParse on Hugging Face, 4.5 GB) "
        "are licensed CC BY-NC-SA 4.0: for research, not for commercial use, and not "
        "for clinical use. The repository is gated: its terms must be accepted at "
        "https://huggingface.co/microsoft/BiomedParse before the download."
    ),
)
PUBLISHED_V1 = replace(
    PUBLISHED,
    name="biomedparse_v1.pt",
    gigabytes=1.8,
    size=None,
    sha256=None,
    licence=PUBLISHED.licence.replace("v2", "v1").replace("4.5 GB", "1.8 GB"),
)
"""Neither its size nor its checksum was published; the repository and revision are
those of v2."""


def build(config: BiomedParseConfig) -> Network:
    """Build a network without memory for its tensors."""
    if config.network == "v1":
        from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1

        return BiomedParseV1.unfilled(config)
    if config.network == "boltzformer":
        from napari_biomedparse.networks.boltzformer.boltzformer import BoltzFormer

        return BoltzFormer.unfilled(config)
    from napari_biomedparse.networks.v2.biomedparse import BiomedParse

    return BiomedParse.unfilled(config)


@dataclass(frozen=True)
class NamedModel:
    """A model that `load_model` knows by name."""

    name: str
    file: HubFile | Path | None  # published, in the installation, or random weights
    licence: str
    config: BiomedParseConfig = V2  # where the file does not record it
    targets: tuple[str, ...] = ()  # prompts of all that it knows, if these are few

    @property
    def is_available(self) -> bool:
        """Whether it can be loaded, perhaps after a download."""
        return not isinstance(self.file, Path) or self.file.is_file()


_DATA = Path(str(files("napari_biomedparse"))) / "_data"
MODELS = {
    model.name: model
    for model in (
        NamedModel("v2", PUBLISHED, PUBLISHED.licence),
        NamedModel("v1", PUBLISHED_V1, PUBLISHED_V1.licence, V1),
        NamedModel(
            "demo",
            _DATA / "demo.safetensors",
            "BSD-3-Clause",
            targets=(
                "cell membranes in electron microscopy",
                "mitochondria in electron microscopy",
                "cell nucleus in electron microscopy",
                "synaptic vesicles in electron microscopy",
                "synaptic clefts in electron microscopy",
                "nuclei in light-sheet microscopy",
                "blood vessels in light-sheet microscopy",
                "amyloid plaques in light-sheet microscopy",
            ),
        ),
        NamedModel("tiny", None, "", TINY),
    )
}


def available_models() -> tuple[str, ...]:
    """List the names that `load_model` knows.

    ``v2`` is the published network for volumes, and ``v1`` that for images of nine
    modalities; they may have to be downloaded. ``demo`` is, where
    it is part of the installation, a small trained one; ``tiny`` the smallest network
    with random weights, which finds nothing and serves to try the machinery.
    """
    return tuple(name for name, model in MODELS.items() if model.is_available)


def targets_of(model: str) -> tuple[str, ...]:
    """List all that a model knows, given by name or identity; empty for most."""
    known = MODELS.get(model.partition(" ")[0])
    return () if known is None else known.targets
