"""A run on one page: pictures, existence plot, findings, objects, how it was made."""

from __future__ import annotations

from napari_biomedparse.run_report.page import PAGE, report_run, write_report
from napari_biomedparse.run_report.result import RunResult

__all__ = ["PAGE", "RunResult", "report_run", "write_report"]
