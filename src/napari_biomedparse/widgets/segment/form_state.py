"""The form's values as plain data, to restore them another time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.networks.weights import default_model
from napari_biomedparse.widgets.shared.settings import (
    AUTOMATIC,
    Preferences,
    last_values,
    settings,
)

if TYPE_CHECKING:
    from magicgui.widgets import CheckBox, ComboBox

    from napari_biomedparse.widgets.prompts.table import PromptTable
    from napari_biomedparse.widgets.segment.options import TileChoice
    from napari_biomedparse.widgets.weights.model_choice import ModelChoice


class FormFields(Protocol):
    """The fields of a form whose values are kept."""

    prompts: PromptTable
    tiles: TileChoice
    consensus: CheckBox
    overwrite: CheckBox
    model: ModelChoice
    device: ComboBox

    def option_values(self) -> dict[str, Any]:
        """Return the options that have a simple field each."""

    def set_option(self, name: str, value: Any) -> None:
        """Set one of them; raises KeyError or ValueError if it cannot be set."""


def state_of(form: FormFields) -> dict[str, Any]:
    """Return, for JSON, what does not depend on the image: prompts, options, model."""
    return {
        "options": form.option_values(),
        "tile": form.tiles.tile,
        "pixel_size": form.tiles.pixel_size,
        "consensus": bool(form.consensus.value),
        "overwrite": bool(form.overwrite.value),
        "model": form.model.value,
        "device": form.device.value,
        "prompts": [list(row) for row in form.prompts.model.snapshot()],
    }


def restore(
    form: FormFields, state: Mapping[str, Any], skip: Collection[str] = ()
) -> None:
    """Restore values but those named in `skip`; values that do not fit are ignored.

    The state may come from another version, or may have been edited.
    """
    options = state.get("options")
    for name, value in options.items() if isinstance(options, Mapping) else ():
        if name not in skip:
            _try(form.set_option, name, value)
    _try(form.tiles.choose, state.get("tile", "auto"), state.get("pixel_size"))

    def put_prompts(rows: Any) -> None:
        known = tuple((int(i), str(text), bool(on)) for i, text, on in rows)
        form.prompts.model.restore(known)

    puts: dict[str, Callable[[Any], None]] = {
        "consensus": partial(setattr, form.consensus, "value"),
        "overwrite": partial(setattr, form.overwrite, "value"),
        "model": form.model.recall,
        "device": partial(setattr, form.device, "value"),
        "prompts": put_prompts,
    }
    for name in puts.keys() & state.keys() - set(skip):
        _try(puts[name], state[name])


def begin(form: FormFields, *, has_prompts: bool) -> None:
    """Start with napari's Preferences and, if these say so, the last used values."""
    chosen = settings()
    apply_settings(form, chosen)
    if chosen.remember:
        # The modality belongs to the prompts that were used with it.
        of_file = ("prompts", "instances", "modality") if has_prompts else ()
        restore(form, last_values(), skip=of_file)


def apply_settings(form: FormFields, chosen: Preferences) -> None:
    """Set the form to napari's Preferences."""
    for name, value in asdict(chosen).items():
        apply_setting(form, name, value)


def apply_setting(form: FormFields, name: str, value: Any) -> None:
    """Apply one of napari's Preferences, if the form has it."""
    if name == "model":
        wanted = default_model() if value == AUTOMATIC else value
        _try(form.model.choose, wanted)
    elif name == "device":
        _try(setattr, form.device, "value", value)
    elif name == "existence_threshold":
        _try(form.set_option, name, value)


def _try(put: Callable[..., Any], *values: Any) -> None:
    """Set a value if possible."""
    try:
        put(*values)
    except (BiomedParseError, KeyError, TypeError, ValueError):
        return
