"""The command `doctor`: what to paste into a bug report."""

from __future__ import annotations

from napari_biomedparse.cli._show import out


def doctor() -> None:
    """Describe this installation and machine, to paste into a bug report."""
    from napari_biomedparse.cli._doctor import report

    out.print(report(), highlight=False, markup=False, soft_wrap=True)
