"""A list of the viewer's layers of one kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


class LayerChoice(ComboBox):
    """Layers of one kind to choose from; follows the layer that the user selects.

    Parameters
    ----------
    viewer : napari.Viewer
    kind : type
        Of layer.
    follows : bool
        Whether it does.
    label, tooltip : str
    """

    def __init__(
        self,
        viewer: Viewer,
        kind: type[Layer],
        *,
        label: str,
        tooltip: str,
        follows: bool = True,
    ) -> None:
        self._viewer, self._kind = viewer, kind
        super().__init__(choices=self._list, label=label, tooltip=tooltip)
        if follows:
            active = viewer.layers.selection.events.active
            active.connect(self._follow)
            self.native.destroyed.connect(lambda *_: active.disconnect(self._follow))
            self._follow()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now, and stay with the one chosen."""
        chosen = self.value
        super().reset_choices()
        if chosen in self.choices and self.value is not chosen:
            self.value = chosen

    def _list(self, _: Any) -> list[Layer]:
        return [one for one in self._viewer.layers if isinstance(one, self._kind)]

    def _follow(self, *_: Any) -> None:
        active = self._viewer.layers.selection.active
        if active in self.choices:
            self.value = active
