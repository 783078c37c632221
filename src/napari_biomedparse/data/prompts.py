"""`PromptSet`: which text stands for which label id."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from napari_biomedparse.errors import PromptError

SEPARATOR = "[SEP]"
"""Joins the prompts of one call in the original, so no prompt may contain it."""
INSTANCE_KEY = "instance_label"
"""Entry of a challenge file's prompts that says whether labels are instances."""
MAX_LABEL_ID = 65535
Colour = tuple[int, int, int, int]
"""Red, green, blue and opacity, each 0 to 255."""
_GOLDEN_RATIO = 0.618033988749895


@dataclass(frozen=True)
class Prompt:
    """One target: its description, and the value of its voxels, 1 to 65535."""

    id: int
    text: str

    def __post_init__(self) -> None:
        """Refuse what the network or a label image cannot express."""
        if not 1 <= self.id <= MAX_LABEL_ID:
            raise PromptError(
                f"Prompt {self.text!r} has the label id {self.id}; ids run from 1 to "
                f"{MAX_LABEL_ID}, and 0 is background."
            )
        if not self.text.strip():
            raise PromptError(
                f"The prompt with label id {self.id} is empty; describe what to find, "
                'for example "mitochondria in electron microscopy".'
            )
        if SEPARATOR in self.text:
            raise PromptError(
                f"Prompt {self.text!r} contains {SEPARATOR}, which separates prompts "
                "for the network; remove it, or make two prompts."
            )


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one run, by ascending label id.

    Parameters
    ----------
    prompts : tuple of Prompt
        At least one, with ascending ids.
    instance : bool
        Whether objects are separated (the file's ``instance_label``).
    order : tuple of int
        All label ids, by descending priority where overlaps are resolved by order;
        empty if they ascend.
    """

    prompts: tuple[Prompt, ...]
    instance: bool = False
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty set and ids that are not ascending."""
        if not self.prompts:
            raise PromptError(
                "There is no prompt; describe what to find, for example "
                '"mitochondria in electron microscopy".'
            )
        if any(a >= b for a, b in zip(self.ids, self.ids[1:], strict=False)):
            raise PromptError(
                f"Label ids must be unique and ascending, not {list(self.ids)}."
            )
        if self.order and sorted(self.order) != list(self.ids):
            raise PromptError(
                f"The order of prompts must name each of the label ids "
                f"{list(self.ids)} once, not {list(self.order)}."
            )
        if self.order == self.ids:
            object.__setattr__(self, "order", ())

    @property
    def ids(self) -> tuple[int, ...]:
        """Label id of each prompt."""
        return tuple(prompt.id for prompt in self.prompts)

    @property
    def ranked(self) -> tuple[int, ...]:
        """Label ids by descending priority."""
        return self.order or self.ids

    @property
    def texts(self) -> tuple[str, ...]:
        """Text of each prompt."""
        return tuple(prompt.text for prompt in self.prompts)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompts)


PromptsLike: TypeAlias = (
    PromptSet | str | Iterable[str] | Mapping[int, str] | Mapping[str, str | int]
)
"""What `parse_prompts` takes: text, texts, or a mapping of label id to text."""


def parse_prompts(source: PromptsLike) -> PromptSet:
    """Make a `PromptSet` from text, texts or a mapping.

    Parameters
    ----------
    source : PromptSet, str, mapping or iterable of str
        Text with one prompt per line (blank lines are ignored), texts in order (ids
        1, 2, ...), or a mapping of label id (int or digits) to text, as in challenge
        files, with an optional ``instance_label`` of 0 or 1; its order is that of the
        prompts.

    Raises
    ------
    PromptError
        If there is no prompt, or one cannot be used.
    """
    if isinstance(source, PromptSet):
        return source
    if isinstance(source, str):
        lines = (line.strip() for line in source.splitlines())
        source = [line for line in lines if line]
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if not isinstance(source, Iterable):
        raise PromptError(
            "Prompts are text, a list of texts or a mapping of label id to text, not "
            f"{source!r}."
        )
    texts = list(source)
    for text in texts:
        if not isinstance(text, str):
            raise PromptError(f"A prompt must be text, not {text!r}.")
    return PromptSet(tuple(Prompt(i, text) for i, text in enumerate(texts, start=1)))


def _from_mapping(source: Mapping[Any, Any]) -> PromptSet:
    texts: dict[int, str] = {}
    for key, text in source.items():
        if key == INSTANCE_KEY:
            continue
        try:
            label_id = int(str(key))
        except ValueError:
            raise PromptError(
                f"The keys of prompts are label ids, but {key!r} is not a number."
            ) from None
        if not isinstance(text, str):
            raise PromptError(f"The prompt with label id {key} is not text: {text!r}.")
        if label_id in texts:
            raise PromptError(f"Label id {label_id} has two prompts; keep one.")
        texts[label_id] = text
    instance = source.get(INSTANCE_KEY, 0)
    if instance not in (0, 1):
        raise PromptError(f"{INSTANCE_KEY} must be 0 or 1, not {instance!r}.")
    return PromptSet(
        tuple(Prompt(i, texts[i]) for i in sorted(texts)),
        instance=bool(instance),
        order=tuple(texts),
    )


def label_colour(label: int, number: int = 0) -> Colour:
    """Return a colour of a label value that differs from those of its neighbours.

    Objects of a label have its hue, in shades that follow from their `number`.
    """
    hue = (label * _GOLDEN_RATIO) % 1.0
    shade = 0.95 - 0.45 * (number * _GOLDEN_RATIO % 1.0)
    rgb = colorsys.hsv_to_rgb(hue, 0.65 + 0.3 * (label % 2), shade)
    red, green, blue = (round(255 * part) for part in rgb)
    return red, green, blue, 255
