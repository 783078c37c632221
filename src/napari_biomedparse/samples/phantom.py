"""`Phantom`: a procedural image and its truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.prompts import Prompt, PromptSet, parse_prompts
from napari_biomedparse.data.volume import SPATIAL_AXES, Volume
from napari_biomedparse.errors import OptionError
from napari_biomedparse.samples.em import EMScene
from napari_biomedparse.samples.fields import Grid
from napari_biomedparse.samples.light_sheet import LightSheetScene

_SCENES: dict[str, type[EMScene] | type[LightSheetScene]] = {
    "em": EMScene,
    "light-sheet": LightSheetScene,
}
KINDS = {kind: scene.targets for kind, scene in _SCENES.items()}
"""Targets of each kind of phantom; label ids count from 1 in this order."""

TITLES = {
    "membrane": "cell membranes in electron microscopy",
    "mitochondria": "mitochondria in electron microscopy",
    "nucleus": "cell nucleus in electron microscopy",
    "vesicles": "synaptic vesicles in electron microscopy",
    "synaptic cleft": "synaptic clefts in electron microscopy",
    "nuclei": "nuclei in light-sheet microscopy",
    "vessels": "blood vessels in light-sheet microscopy",
    "plaques": "amyloid plaques in light-sheet microscopy",
}
"""The wording that the package itself uses for each target."""

OFTEN = {"membrane": 0.88, "nuclei": 0.85}
"""Probability that a target occurs in a phantom; 0.65 for the others."""

SHAPE = (24, 128, 128)


@dataclass(frozen=True)
class Phantom:
    """An image and the truth about each of its kind's targets.

    It was drawn from a kind and a seed by `make_phantom`. Objects, int32 [Z,Y,X], are
    for each target of the kind its instances, numbered from 1; 0 elsewhere. The targets
    do not overlap. Spacing is the voxel size along z, y, x in micrometres.
    """

    kind: str
    seed: int
    image: npt.NDArray[np.uint8]
    objects: Mapping[str, npt.NDArray[np.int32]]
    spacing: tuple[float, float, float]

    @property
    def absent(self) -> tuple[str, ...]:
        """Targets of this kind that do not occur."""
        return tuple(name for name, found in self.objects.items() if not found.any())

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Label id of the target at each voxel, int32 [Z,Y,X]; 0 is background."""
        labels = np.zeros(self.image.shape, np.int32)
        for label_id, found in enumerate(self.objects.values(), start=1):
            labels[found > 0] = label_id
        return labels

    @property
    def prompts(self) -> PromptSet:
        """One prompt for each target of the kind, the absent ones included."""
        named = enumerate(self.objects, start=1)
        return PromptSet(tuple(Prompt(label, TITLES[name]) for label, name in named))

    @property
    def demo_prompts(self) -> PromptSet:
        """The targets that occur, and one of another kind that is certainly absent."""
        other = "light-sheet" if self.kind == "em" else "em"
        named = enumerate(self.objects, start=1)
        texts = {i: TITLES[name] for i, name in named if name not in self.absent}
        texts[max(texts) + 1] = TITLES[KINDS[other][-1]]
        return parse_prompts(texts)

    @property
    def volume(self) -> Volume:
        """The image with its axes and voxel size."""
        name, units = f"{self.kind} phantom {self.seed}", ("micrometer",) * 3
        origin = (0.0, 0.0, 0.0)
        return Volume(self.image, SPATIAL_AXES, self.spacing, units, origin, name)


def make_phantom(
    kind: str,
    seed: int,
    *,
    shape: tuple[int, int, int] = SHAPE,
    targets: tuple[str, ...] | None = None,
) -> Phantom:
    """Draw a phantom of a kind of `KINDS`.

    The same seed and shape (z, y, x) give the same phantom. Instances keep their size
    in pixels; a larger shape shows more of them. The targets are drawn by default. An
    `OptionError` is raised for an unknown kind or target, or a shape too small to hold
    tissue.
    """
    if kind not in KINDS:
        raise OptionError(f"There is no phantom {kind!r}. Choose {' or '.join(KINDS)}.")
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 32:
        raise OptionError(
            f"A phantom of shape {tuple(shape)} cannot be drawn. The shape is z, y, x "
            "with at least 1 slice of 32 by 32 pixels."
        )
    unknown = set(targets or ()) - set(KINDS[kind])
    if unknown:
        raise OptionError(
            f"The {kind} phantom has no {sorted(unknown)[0]!r}; its targets are "
            f"{', '.join(KINDS[kind])}."
        )
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    chance = {name: rng.random() for name in KINDS[kind]}
    drawn = {name for name, c in chance.items() if c < OFTEN.get(name, 0.65)}
    if not drawn:
        drawn = {min(chance, key=lambda name: chance[name])}
    wanted = frozenset(drawn if targets is None else targets)
    grid = Grid(shape, anisotropy=float(rng.uniform(1.5, 4.0)))
    scene = _SCENES[kind](rng, grid, wanted)
    scene.draw()
    spacing = (round(scene.pixel * grid.anisotropy, 6), scene.pixel, scene.pixel)
    return Phantom(kind, seed, scene.render(), scene.objects, spacing)


def sample_em() -> Phantom:
    """Draw the electron microscopy sample of the package: every target but one."""
    targets = ("membrane", "mitochondria", "nucleus", "vesicles")
    return make_phantom("em", 20_000_001, targets=targets)


def sample_light_sheet() -> Phantom:
    """Draw the light-sheet sample of the package: nuclei and vessels, no plaques."""
    return make_phantom("light-sheet", 20_000_001, targets=("nuclei", "vessels"))
