"""Tables, plots and pages of a run; the only room that draws."""

from unlearnjax.report import html, plots, table

__all__ = ["html", "plots", "table"]
