"""The classes of each data set, and the wordings of their prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.prompts import INSTANCE_KEY, Prompt
from napari_biomedparse.errors import PromptError

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet

FILE_NAME = "class_prompts.json"
ANY = "*"
"""Data set of all other files."""
ABSENT_KEY = "absent"


@dataclass(frozen=True)
class Wordings:
    """Prompts for the classes of a data set.

    `texts` has the wordings of each label id; without any, its voxels are background.
    """

    texts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    instance: bool = False  # whether label values are instances, all of one class
    absent: tuple[str, ...] = ()  # prompts for targets that occur in none of the images
    overlapping: bool = False  # whether values are sums of ids, which are powers of two

    def __post_init__(self) -> None:
        """Refuse invalid prompts, and instances of several classes."""
        for label, texts in self.texts.items():
            for text in texts:
                Prompt(label, text)
        for text in self.absent:
            Prompt(1, text)
        if self.instance and len(self.classes) != 1:
            raise PromptError(
                f"If {INSTANCE_KEY} is 1, labels are instances of one class, but "
                f"{len(self.classes)} classes have prompts. Give wordings for one."
            )

    @property
    def classes(self) -> tuple[int, ...]:
        """Label ids with prompts."""
        return tuple(label for label, texts in self.texts.items() if texts)

    @classmethod
    def of(cls, prompts: PromptSet) -> Wordings:
        """Make wordings of the prompts of a file, one per class."""
        texts = {prompt.id: (prompt.text,) for prompt in prompts.prompts}
        return cls(texts, prompts.instance)


def read_wordings(path: Path) -> dict[str, Wordings]:
    """Read the wordings of each data set.

    The file is JSON that maps data set, a prefix of its files' names or `ANY`, to label
    id to a wording or a list of them (an empty list makes the class background). A data
    set may also have ``instance_label`` (0 or 1) and ``absent`` (a list of prompts for
    targets that occur nowhere). Without the outer level it applies to all files. A
    `PromptError` is raised if the file cannot be read or has other content.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict) or not content:
        raise PromptError(
            f"{path} must be a JSON object that maps data set to class to texts."
        )
    if not all(isinstance(value, dict) for value in content.values()):
        content = {ANY: content}
    try:
        return {name: _parse(value) for name, value in content.items()}
    except PromptError as error:
        raise PromptError(f"{path}: {error}") from error


def wordings_for(name: str, known: Mapping[str, Wordings]) -> tuple[str, Wordings]:
    """Return the data set of a file, the longest prefix of its name, and its wordings.

    A `PromptError` is raised if there is none.
    """
    fitting = [dataset for dataset in known if name.startswith(dataset)]
    dataset = max(fitting, key=len) if fitting else ANY
    if dataset not in known:
        raise PromptError(
            f"no data set is a prefix of the name {name} (data sets are "
            f"{', '.join(known)}); add one, or one named {ANY} for all other files"
        )
    return dataset, known[dataset]


def _parse(values: Any) -> Wordings:
    if not isinstance(values, dict):
        raise PromptError(f"A data set must map class to texts, but is {values!r}.")
    classes = {INSTANCE_KEY: 0, ABSENT_KEY: [], **values}
    instance, absent = classes.pop(INSTANCE_KEY), classes.pop(ABSENT_KEY)
    if wrong := [key for key in classes if not key.isdigit()]:
        raise PromptError(
            f"Classes must be numbers (label ids), but one is {wrong[0]!r}."
        )
    if instance not in (0, 1):
        raise PromptError(f"{INSTANCE_KEY} must be 0 or 1, not {instance!r}.")
    texts = {int(key): _texts(key, classes[key]) for key in sorted(classes, key=int)}
    return Wordings(texts, bool(instance), _texts(ABSENT_KEY, absent))


def _texts(key: str, value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(x, str) for x in listed):
        raise PromptError(f"The wordings of {key} must be a text or a list of texts.")
    return tuple(listed)
