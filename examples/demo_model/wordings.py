"""Wordings of the targets of the phantoms, for training and for testing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_biomedparse.errors import OptionError
from napari_biomedparse.samples import TITLES

if TYPE_CHECKING:
    import numpy as np

NAMES: dict[str, tuple[str, ...]] = {
    "membrane": (
        "membrane", "membranes", "cell membrane", "cell membranes", "plasma membrane",
        "plasma membranes", "cell boundaries", "cell borders", "neuronal membranes",
    ),
    "mitochondria": (
        "mitochondria", "mitochondrion", "mitochondrial profiles", "cell mitochondria",
        "mitochondria with cristae", "mitochondrial organelles",
        "neuronal mitochondria",
    ),
    "nucleus": (
        "nucleus", "nuclei", "cell nucleus", "cell nuclei", "neuronal nucleus",
        "nuclei of cells", "chromatin of the nucleus",
    ),
    "vesicles": (
        "vesicles", "vesicle", "synaptic vesicles", "synaptic vesicle",
        "transport vesicles", "neurotransmitter vesicles", "vesicle clusters",
    ),
    "synaptic cleft": (
        "synaptic cleft", "synaptic clefts", "synapse", "synapses",
        "synaptic junctions", "synaptic contacts", "postsynaptic densities",
    ),
    "nuclei": (
        "nuclei", "nucleus", "cell nuclei", "cell nucleus", "stained nuclei",
        "neuronal nuclei", "nuclei of cells", "fluorescent nuclei",
    ),
    "vessels": (
        "vessels", "vessel", "blood vessels", "blood vessel", "vasculature",
        "brain vasculature", "capillaries", "vascular network",
    ),
    "plaques": (
        "plaques", "plaque", "amyloid plaques", "amyloid plaque",
        "beta-amyloid plaques", "amyloid deposits", "senile plaques",
    ),
}  # fmt: skip
UNSEEN_NAMES: dict[str, tuple[str, ...]] = {
    "membrane": ("membranes of cells", "borders of the cell membranes"),
    "mitochondria": ("profiles of mitochondria", "mitochondria of neuronal cells"),
    "nucleus": ("nucleus of the cell", "neuronal cell nuclei"),
    "vesicles": ("clusters of synaptic vesicles", "neuronal vesicles"),
    "synaptic cleft": ("clefts of synapses", "neuronal synapses"),
    "nuclei": ("nuclei of the brain", "stained cell nuclei"),
    "vessels": ("network of blood vessels", "vessels of the brain"),
    "plaques": ("deposits of amyloid plaques", "plaques of amyloid"),
}

MODALITIES: dict[str, tuple[str, ...]] = {
    "em": ("electron microscopy", "EM", "Electron Microscopy", "vEM",
           "volume electron microscopy", "electron microscope"),
    "light-sheet": ("light-sheet microscopy", "light sheet microscopy",
                    "Light-sheet Microscopy", "light-sheet", "lightsheet microscopy",
                    "light-sheet fluorescence microscopy", "LSFM"),
}  # fmt: skip

TEMPLATES = (
    "{t} in {m}",
    "{m} imaging of {t}",
    "{t} in {m} images",
    "Visualization of {t} in {m}",
    "Presence of {t} detected in {m} images",
    "{m} showing {t}",
    "{t} observed in {m} volumes",
    "{m} image of the {t} in brain",
    "{t} in brain {m}",
    "segment {t} in {m}",
    "Segmentation of the {t} in {m}",
    "find all {t} in this {m} volume",
    "{m}: {t}",
    "{t}, {m}",
    "{t} ({m})",
    "{m} depicting {t} in tissue",
    "the {t} in a {m} image",
    "{t}",
)
UNSEEN_TEMPLATES = (
    "{m} volume showing the {t}",
    "please segment all {t} in the {m} images",
    "Visualization of the {t} within brain tissue, {m} imaging",
    "image of {t} from {m}",
)

FOREIGN = tuple(
    f"{target} in {place}"
    for place, targets in {
        "abdominal CT": ("liver", "spleen", "left kidney", "pancreas", "aorta"),
        "chest CT": ("left lung", "lung lesion", "trachea", "heart"),
        "brain MRI": ("tumor", "hippocampus", "ventricle", "white matter"),
        "cardiac ultrasound": ("left atrium", "myocardium", "left ventricle"),
        "PET": ("lesion", "lymph node"),
        "a photograph": ("dog", "tree", "car", "table"),
    }.items()
    for target in targets
)
"""Things that no phantom shows."""


def wording(
    rng: np.random.Generator,
    kind: str,
    target: str,
    *,
    template: str | None = None,
    unseen: bool = False,
) -> str:
    """Draw one way to ask for a target.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the randomness.
    kind : str
        Kind of phantom, "em" or "light-sheet".
    target : str
        One of the kind's targets.
    template : str, optional
        Sentence to use, with ``{t}`` for the target and ``{m}`` for the modality; by
        default one is drawn, or the package's own wording is taken.
    unseen : bool
        Draw from the names and templates that training never uses.

    Returns
    -------
    str

    Raises
    ------
    OptionError
        For an unknown kind or target.
    """
    if kind not in MODALITIES or target not in NAMES:
        raise OptionError(f"There are no wordings for {target!r} in {kind!r}.")
    names = (UNSEEN_NAMES if unseen else NAMES)[target]
    templates = UNSEEN_TEMPLATES if unseen else TEMPLATES
    if template is None:
        if not unseen and rng.random() < 0.15:
            return TITLES[target]
        template = templates[rng.integers(len(templates))]
    name, modalities = names[rng.integers(len(names))], MODALITIES[kind]
    return template.format(t=name, m=modalities[rng.integers(len(modalities))])
