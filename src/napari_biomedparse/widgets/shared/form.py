"""Form fields from an options class: label, help, choices and limits live there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, FloatSpinBox, SpinBox
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QLabel, QWidget

if TYPE_CHECKING:
    from magicgui.widgets.bases import ValueWidget, Widget

AUTOMATIC = "automatic"


def option_fields(
    options: type,
    names: Sequence[str],
    captions: Mapping[str, Mapping[Any, str]] | None = None,
) -> dict[str, ValueWidget[Any]]:
    """Make form fields for some options of a dataclass.

    Parameters
    ----------
    options : type
        Dataclass whose fields have metadata ``label``, ``help`` and either
        ``choices``, ``names`` or ``min`` and ``max``.
    names : sequence of str
        Which fields.
    captions : mapping, optional
        For a field with choices: what people read for a value, of those offered.

    Returns
    -------
    dict
        A magicgui widget per name, with the option's default as its value.
    """
    known = {item.name: item for item in fields(options)}
    return {
        name: _widget(known[name], (captions or {}).get(name, {})) for name in names
    }


def form_layout(parent: QWidget, widgets: Sequence[Widget]) -> QFormLayout:
    """Put magicgui widgets below each other, their labels in a column.

    Parameters
    ----------
    parent : QWidget
        Gets the layout.
    widgets : sequence of magicgui widgets
        A check box carries its label itself.

    Returns
    -------
    QFormLayout
    """
    layout = QFormLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for widget in widgets:
        label = QLabel("" if isinstance(widget, CheckBox) else widget.label)
        label.setToolTip(widget.tooltip)
        layout.addRow(label, widget.native)
    return layout


def show_row(layout: QFormLayout, widget: Widget, shown: bool) -> None:
    """Show or hide a widget together with its label."""
    label = layout.labelForField(widget.native)
    if label is not None:
        label.setVisible(shown)
    widget.visible = shown


def tab_after(before: QWidget, part: QWidget) -> None:
    """Let the Tab key go from a control through those of a part of the form.

    Parameters
    ----------
    before : QWidget
    part : QWidget
        Its controls come in the order in which it holds them.
    """
    for control in part.findChildren(QWidget):
        if control.focusPolicy() & Qt.FocusPolicy.TabFocus:
            QWidget.setTabOrder(before, control)
            before = control


def _widget(item: Field[Any], captions: Mapping[Any, str]) -> ValueWidget[Any]:
    meta = item.metadata
    common = {"name": item.name, "label": meta["label"], "tooltip": meta["help"]}
    choices = meta.get("choices")
    if "names" in meta:
        choices = (item.default, *meta["names"])
    if captions:
        choices = tuple(captions)
    if choices:
        named = [(captions.get(value, _caption(value)), value) for value in choices]
        return ComboBox(value=item.default, choices=named, **common)
    if "min" not in meta:
        return CheckBox(value=bool(item.default), **common)
    make: Callable[..., ValueWidget[Any]] = SpinBox
    step: float = 1
    if isinstance(meta["min"], float):
        make, step = FloatSpinBox, 0.05
    return make(
        value=item.default, min=meta["min"], max=meta["max"], step=step, **common
    )


def _caption(value: Any) -> str:
    return AUTOMATIC if value is None else str(value)
