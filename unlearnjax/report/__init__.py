"""Tables, plots and pages of a run; the only room that draws."""

from unlearnjax.report import html, plots, population_plots, selection_plots, table

__all__ = ["html", "plots", "population_plots", "selection_plots", "table"]
