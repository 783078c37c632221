"""A list of the viewer's layers of one kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Layer


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
