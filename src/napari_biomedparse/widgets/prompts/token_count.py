"""How much of a prompt the network reads."""

from __future__ import annotations

from qtpy.QtWidgets import QLabel

from napari_biomedparse.networks.blocks.tokenizer import CONTEXT_LENGTH, token_count
from napari_biomedparse.widgets.prompts.model import WARNING


class TokenCount(QLabel):
    """Counts the tokens of a text, and warns where its end would not be read."""

    def __init__(self) -> None:
        super().__init__()
        self.setToolTip(
            f"The network reads {CONTEXT_LENGTH} tokens of a prompt and no more: "
            "pieces of words, and two for its beginning and end."
        )

    def count(self, text: str) -> None:
        """Show the count of a text; none hides it."""
        tokens = token_count(text)
        cut = tokens > CONTEXT_LENGTH
        self.setVisible(bool(text))
        self.setText(f"{tokens}/{CONTEXT_LENGTH} tokens" + ": end not read" * cut)
        self.setStyleSheet(f"color: {WARNING.name()}" if cut else "")
