"""One HTML page that tells what a run fitted, how well, what it found, and what to be careful of."""

from inference.report.page import write_report

__all__ = ["write_report"]
