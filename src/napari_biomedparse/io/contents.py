"""What an opened file holds: images, labels and prompts. No file access here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.prompts import INSTANCE_KEY, parse_prompts
from napari_biomedparse.errors import FormatError, PromptError

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import Colour, PromptSet
    from napari_biomedparse.data.results import Owners
    from napari_biomedparse.data.volume import Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelVolume:
    """A label image, with names and colours of its values as far as they are known.

    `texts` are prompts by label id. Values are label ids or, if it is of `instance`s,
    objects, whose prompts are those of their `owners`. Raises `FormatError` if the
    values of `volume` are not whole numbers.
    """

    volume: Volume
    texts: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, Colour] = field(default_factory=dict)
    instance: bool = False
    owners: Owners | None = None

    def __post_init__(self) -> None:
        """Refuse fractions."""
        if self.volume.dtype.kind not in "bui":
            raise FormatError(
                f"The labels {self.volume.name} of {self.volume.source} have values of "
                f"type {self.volume.dtype}; convert them to integers."
            )

    @property
    def names(self) -> Mapping[int, str]:
        """Prompt by value of the voxels, as far as it is known."""
        if not self.instance:
            return self.texts
        if self.owners is not None:
            return self.owners.names(self.texts)
        return _SameName(self.texts) if len(self.texts) == 1 else {}


class _SameName(dict[int, str]):
    """The only prompt there is, for whatever object."""

    def get(self, _: int, default: Any = None) -> Any:
        """Return the prompt."""
        return next(iter(self.values()), default)


@dataclass(frozen=True)
class Contents:
    """Images, label images and prompts of one file.

    Images have any rank, channels and time points included. `unread` says why labels
    that belong to the images could not be opened.
    """

    images: tuple[Volume, ...] = ()
    labels: tuple[LabelVolume, ...] = ()
    prompts: PromptSet | None = None
    unread: str = ""


def as_prompts(
    texts: Mapping[int, str], *, instance: bool, what: str
) -> PromptSet | None:
    """Make prompts of the names of label values.

    Returns None if there are none, or if one is not a valid prompt, which is logged
    with the file's name `what`. `instance` means that values are instances.
    """
    mapping: dict[str, str | int] = {str(label): text for label, text in texts.items()}
    mapping[INSTANCE_KEY] = int(instance)
    try:
        return parse_prompts(mapping) if texts else None
    except PromptError as error:
        logger.warning("%s: the label names do not serve as prompts: %s", what, error)
        return None
