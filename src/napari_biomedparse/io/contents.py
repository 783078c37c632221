"""What files hold: images, labels and prompts; the last also in JSON of their own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet, parse_prompts
from napari_biomedparse.data.results import Owners
from napari_biomedparse.errors import FormatError, PromptError, VolumeError
from napari_biomedparse.io.durable import whole_or_nothing

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import Colour, PromptSet
    from napari_biomedparse.data.volume import Volume

_EXAMPLE = '{"1": "mitochondria in electron microscopy"}'
_UNKNOWN: Mapping[int, Colour] = {}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelVolume:
    """A label image, with names and colours of its values as far as they are known.

    `texts` are prompts by label id. Values are label ids or, if it is of `instance`s,
    objects, whose prompts are those of their `owners`. Raises `VolumeError` if the
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
            raise VolumeError(
                f"{self.volume.source} has labels of type {self.volume.dtype}; labels "
                "must be integers, 0 for background: round and convert them."
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


def label_contents(
    volume: Volume,
    known: Mapping[str, Any],
    colours: Mapping[int, Colour] = _UNKNOWN,
) -> Contents:
    """Return labels with what their file tells: prompts by label id, kind and owners.

    There are no prompts if one of them is not valid, which is logged.
    """
    texts = {int(i): str(text) for i, text in known.get("text_prompts", {}).items()}
    instance, owners = known.get(INSTANCE_KEY) == 1, Owners.parse(known.get("owners"))
    labels = LabelVolume(volume, texts, colours, instance, owners)
    prompts = None
    try:
        prompts = parse_prompts(_described(texts, instance)) if texts else None
    except PromptError as error:
        told = "%s: the label names do not serve as prompts: %s"
        logger.warning(told, volume.source, error)
    return Contents(labels=(labels,), prompts=prompts)


def _described(texts: Mapping[int, str], instance: bool) -> dict[str, str | int]:
    """Return what `parse_prompts` takes."""
    known = {str(label): text for label, text in texts.items()}
    return {**known, INSTANCE_KEY: int(instance)}


def read_prompts(path: str | os.PathLike[str]) -> PromptSet:
    """Read prompts from a JSON file.

    Raises `FormatError` if it does not hold a JSON object, and `PromptError` if one of
    its prompts is not valid.
    """
    try:
        known = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(
            f"{path} cannot be read as prompts ({error}). It should be JSON such as "
            f"{_EXAMPLE}."
        ) from error
    if not isinstance(known, dict):
        raise FormatError(
            f"{path} holds a {type(known).__name__} at the top level. Prompts are an "
            f"object such as {_EXAMPLE}."
        )
    return parse_prompts(known)


def save_prompts(
    path: str | os.PathLike[str], texts: Mapping[int, str], *, instance: bool
) -> None:
    """Write prompts by label id as JSON, as `read_prompts` and `parse_prompts` take it.

    An existing file is replaced. `instance` is whether to separate objects. Raises
    `OutputError` if the file cannot be written.
    """
    known = _described(texts, instance)
    with whole_or_nothing(Path(path), overwrite=True) as temporary:
        text = json.dumps(known, indent=2, ensure_ascii=False)
        temporary.write_text(text, "utf-8", newline="\n")
