"""The form's values as plain data, to begin with them another time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.networks.weights import default_model
from napari_biomedparse.widgets.shared.settings import (
    AUTOMATIC,
    Settings,
    last_values,
    settings,
)

if TYPE_CHECKING:
    from napari_biomedparse.widgets.segment.form import SegmentForm


def state_of(form: SegmentForm) -> dict[str, Any]:
    """Return what does not depend on the image: prompts, options, model.

    Returns
    -------
    dict
        To be kept as JSON.
    """
    return {
        "options": form.option_values(),
        "tile": form.tiles.tile,
        "pixel_size": form.tiles.pixel_size,
        "consensus": bool(form.consensus.value),
        "overwrite": bool(form.overwrite.value),
        "model": form.model.value,
        "device": form.device.value,
        "prompts": [list(row) for row in form.prompts.rows.snapshot()],
    }


def restore(
    form: SegmentForm, state: Mapping[str, Any], skip: Collection[str] = ()
) -> None:
    """Put values back; those that are no longer possible are left as they are.

    Parameters
    ----------
    form : SegmentForm
    state : mapping
        As `state_of` gave it, maybe in another version, or after somebody's editing.
    skip : collection of str
        Names of values, or of options, to be left as they are.
    """
    options = state.get("options")
    for name, value in options.items() if isinstance(options, Mapping) else ():
        if name not in skip:
            _try(form.set_option, name, value)
    _try(form.tiles.choose, state.get("tile", "auto"), state.get("pixel_size"))
    for name, put in (
        ("consensus", lambda value: setattr(form.consensus, "value", bool(value))),
        ("overwrite", lambda value: setattr(form.overwrite, "value", bool(value))),
        ("model", form.model.choose_known),
        ("device", lambda value: setattr(form.device, "value", value)),
        (
            "prompts",
            lambda rows: form.prompts.restore(
                tuple((int(i), str(text), bool(on)) for i, text, on in rows)
            ),
        ),
    ):
        if name in state and name not in skip:
            _try(put, state[name])


def begin(form: SegmentForm, *, has_prompts: bool) -> None:
    """Begin with napari's Settings and, if these say so, the values used last.

    Parameters
    ----------
    form : SegmentForm
    has_prompts : bool
        Whether the open file told prompts, which then stay.
    """
    chosen = settings()
    apply_settings(form, chosen)
    if chosen.remember:
        # The modality goes with the prompts that were used with it.
        of_file = ("prompts", "instances", "modality") if has_prompts else ()
        restore(form, last_values(), skip=of_file)


def apply_settings(form: SegmentForm, chosen: Settings) -> None:
    """Begin with what napari's Settings say."""
    for name in ("model", "device", "existence_threshold"):
        apply_setting(form, name, getattr(chosen, name))


def apply_setting(form: SegmentForm, name: str, value: Any) -> None:
    """Follow one of napari's Settings, as far as the form has it."""
    if name == "model":
        wanted = default_model() if value == AUTOMATIC else value
        _try(form.model.choose_known, wanted)
    elif name == "device":
        _try(lambda: setattr(form.device, "value", value))
    elif name == "existence_threshold":
        _try(form.set_option, name, value)


def _try(put: Callable[..., Any], *values: Any) -> None:
    """Put a value where it fits."""
    try:
        put(*values)
    except (BiomedParseError, KeyError, TypeError, ValueError):
        return
