"""Form fields made from the declarations of an options class (`data.options`)."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import (
    CheckBox,
    ComboBox,
    FileEdit,
    FloatSpinBox,
    LineEdit,
    SpinBox,
)
from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QKeySequence
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QMessageBox,
    QShortcut,
    QWidget,
)

from napari_biomedparse.data.options import field_types
from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.widgets.shared.settings import AUTOMATIC

if TYPE_CHECKING:
    from collections.abc import Callable

    from magicgui.widgets.bases import ValueWidget, Widget
    from napari import Viewer
    from napari.layers import Layer

DEVICES = ("auto", "cpu", "cuda", "mps")
WARNING = QColor("#e0912f")
"""Readable on napari's dark and on its light background."""

_SHORT = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
_LINK = "color: #4f86e8"  # readable on both backgrounds, too


def with_links(text: str) -> str:
    """Return text as HTML whose addresses are links."""
    link = rf"<a href='\g<0>' style='{_LINK}'>\g<0></a>"
    shown = re.sub(
        r"https?://[^\s<>'\"]*[^\s<>'\".,:;)]", link, html.escape(text, False)
    )
    return shown.replace("\n", "<br>")


class Problem(QLabel):
    """What went wrong: text to be read and copied for as long as it is true."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setOpenExternalLinks(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.setStyleSheet(f"color: {WARNING.name()}")
        self.hide()

    def tell(self, text: str) -> None:
        """Show what is wrong; nothing if the text is empty."""
        self.setText(with_links(text))
        self.setVisible(bool(text))

    def fail(self, text: str) -> None:
        """Show what went wrong, in napari's notifications, too."""
        self.tell(text)
        show_error(text)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the error of this package that ends a block, and go on after it."""
        try:
            yield
        except BiomedParseError as error:
            self.fail(str(error))


def option_fields(
    options: type,
    names: Sequence[str],
    captions: Mapping[str, Mapping[Any, str]] | None = None,
) -> dict[str, ValueWidget[Any]]:
    """Return a magicgui widget per named option, set to the option's default.

    `captions` gives, for an option with choices, the text shown for each value; values
    without one are not offered.
    """
    known = {item.name: item for item in fields(options)}
    return {
        name: _widget(known[name], options, (captions or {}).get(name, {}))
        for name in names
    }


def form_layout(parent: QWidget, widgets: Sequence[Widget | QWidget]) -> QFormLayout:
    """Lay out widgets below each other; those of magicgui have labels beside them."""
    layout = QFormLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for widget in widgets:
        if isinstance(widget, QWidget):
            layout.addRow(widget)
            continue
        label = QLabel("" if isinstance(widget, CheckBox) else widget.label)
        label.setToolTip(widget.tooltip)
        layout.addRow(label, widget.native)
    return layout


def form_of(*widgets: Widget | QWidget) -> QWidget:
    """Return a widget with such a layout."""
    form = QWidget()
    form_layout(form, widgets)
    return form


def show_row(layout: QFormLayout, widget: Widget, shown: bool) -> None:
    """Show or hide a widget together with its label."""
    label = layout.labelForField(widget.native)
    if label is not None:
        label.setVisible(shown)
    widget.visible = shown


def tab_after(before: QWidget, part: QWidget) -> None:
    """Let the Tab key move from a control through the controls of a part."""
    for control in part.findChildren(QWidget):
        if control.focusPolicy() & Qt.FocusPolicy.TabFocus:
            QWidget.setTabOrder(before, control)
            before = control


def folder_field(label: str, tooltip: str, name: str = "") -> FileEdit:
    """Return a field for a new or existing folder, empty at first."""
    field = FileEdit(
        name=name,
        label=label,
        mode=FileDialogMode.EXISTING_DIRECTORY,
        nullable=True,
        value=None,
        tooltip=tooltip,
    )
    field.line_edit.tooltip = tooltip
    field.choose_btn.tooltip = f"Choose or create a folder: {label.lower()}."
    return field


def chosen_folder(field: FileEdit) -> Path | None:
    """Return the folder in a field, or None if it is empty."""
    value = field.value
    return value if isinstance(value, Path) and value != Path() else None


def device_field(tooltip: str) -> ComboBox:
    """Return a choice of devices."""
    return ComboBox(
        name="device",
        label="Device",
        choices=DEVICES,
        tooltip=f"{tooltip} auto selects the fastest device.",
    )


def add_key(
    widget: QWidget, key: str, do: Callable[[], object], control: QWidget | None = None
) -> None:
    """Add a keyboard shortcut that works while a widget is shown; a control tells it.

    It is one of Qt: napari 0.9.2 ignores the keybindings of manifests.
    """
    QShortcut(QKeySequence(key), widget).activated.connect(lambda: do())
    if control is not None:
        tell_key(control, key)


def tell_key(control: QWidget, key: str) -> None:
    """Add a keyboard shortcut to a tooltip."""
    name = QKeySequence(key).toString(QKeySequence.SequenceFormat.NativeText)
    control.setToolTip(f"{control.toolTip()} ({name})")


SAVE_FILTERS = (
    "OME-Zarr (*.zarr);;TIFF (*.tif *.tiff);;Challenge file (*.npz);;"
    "NIfTI (*.nii.gz *.nii)"
)


def ask_where(parent: QWidget, title: str, name: str, filters: str) -> str:
    """Ask for a file name and propose one; a missing extension is added.

    The dialog asks before a file is replaced, and so does this if the extension makes
    it another file.
    """
    proposed = re.sub(r"[^\w.-]+", "_", name).strip("_")
    path, chosen = QFileDialog.getSaveFileName(parent, title, proposed, filters)
    ending = chosen.partition("(*")[2].partition(")")[0].split(" ")[0]
    known = re.findall(r"\*(\.[\w.]+)", filters)
    if not path or path.lower().endswith(tuple(known)):
        return path
    whole = path + ending
    if not Path(whole).exists():
        return whole
    yes = QMessageBox.StandardButton.Yes
    asked = f"{Path(whole).name} already exists. Replace it?"
    return whole if QMessageBox.question(parent, title, asked) == yes else ""


def files_of_images(viewer: Viewer) -> list[str | None]:
    """Return the files of all images, which no output may replace."""
    return [one.source.path for one in viewer.layers if isinstance(one, Image)]


def copy_text(text: str) -> None:
    """Put text on the clipboard."""
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    clipboard.setText(text)


def _widget(
    item: Field[Any], options: type, captions: Mapping[Any, str]
) -> ValueWidget[Any]:
    meta, default = item.metadata, item.default
    common = {"name": item.name, "label": meta["label"], "tooltip": meta["help"]}
    choices = meta.get("choices")
    if "names" in meta:
        choices = (default, *meta["names"])
    if choices := tuple(captions) or choices:
        named = [(captions.get(value, _caption(value)), value) for value in choices]
        return ComboBox(value=default, choices=named, **common)
    types = field_types(options)[item.name]
    if bool in types:
        return CheckBox(value=bool(default), **common)
    if str in types:
        return LineEdit(value=str(default or ""), **common)
    make: Callable[..., ValueWidget[Any]] = SpinBox
    if float in types:
        make = partial(FloatSpinBox, step=0.05)
    return make(value=default, min=meta["min"], max=meta["max"], **common)


def _caption(value: Any) -> str:
    return AUTOMATIC if value is None else str(value)


class LayerChoice(ComboBox):
    """Layers of one kind to choose from.

    Follows the layer that the user selects if `follows`; `offers` excludes layers.
    """

    def __init__(
        self,
        viewer: Viewer,
        kind: type[Layer],
        *,
        label: str,
        tooltip: str,
        follows: bool = True,
        offers: Callable[[Any], bool] = lambda _: True,
    ) -> None:
        self._viewer, self._kind, self._offers = viewer, kind, offers
        super().__init__(choices=self._list, label=label, tooltip=tooltip)
        self.native.setMinimumContentsLength(12)  # long names would widen the window
        self.native.setSizeAdjustPolicy(_SHORT)
        if follows:
            viewer.layers.selection.events.active.connect(self._follow)
            self._follow()

    def reset_choices(self, *_: Any) -> None:
        """List the current layers and keep the chosen one."""
        chosen = self.value
        super().reset_choices()
        if chosen in self.choices and self.value is not chosen:
            self.value = chosen

    def _list(self, _: Any) -> list[Layer]:
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, self._kind) and self._offers(layer)
        ]

    def _follow(self, *_: Any) -> None:
        selection = self._viewer.layers.selection
        try:
            offered = self.choices
        except RuntimeError:  # Qt has deleted the field with its window
            selection.events.active.disconnect(self._follow)
            return
        if selection.active in offered:
            self.value = selection.active
