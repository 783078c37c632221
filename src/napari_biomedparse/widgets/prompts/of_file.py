"""Prompts that come with an image's file, and those that the user wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.widgets.prompts.rows import Snapshot
    from napari_biomedparse.widgets.prompts.table import PromptTable


class FilePrompts:
    """Fills the table, but never over what the user wrote.

    Parameters
    ----------
    table : PromptTable

    Attributes
    ----------
    shown : bool
        Whether the table was filled from a file.
    """

    def __init__(self, table: PromptTable) -> None:
        self._table = table
        self._filled: Snapshot = ()
        self.shown = False

    def offer(self, known: PromptSet | None) -> bool:
        """Fill in what the image's file tells, if that is wanted.

        Parameters
        ----------
        known : PromptSet or None
            None if the file tells nothing; prompts of a file before it then go.

        Returns
        -------
        bool
            Whether the table was filled, or emptied.
        """
        self._table.offer_file(known)
        now = self._table.rows.snapshot()
        untouched = now == self._filled
        stays = known is None and not (untouched and self.shown)
        if stays or not (untouched or not now):
            return False
        self._table.set_prompts(known)
        self.shown = known is not None
        self.take_as_filled()
        return True

    def take_as_filled(self) -> None:
        """Take the rows there are for none that the user wrote."""
        self._filled = self._table.rows.snapshot()
