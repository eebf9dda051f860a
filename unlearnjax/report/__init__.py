"""Tables, plots and pages of a run; the only room that draws."""

from unlearnjax.report import (
    grid_plots,
    html,
    plots,
    population_plots,
    protection_plots,
    results,
    sample_plots,
    selection_plots,
    table,
)
from unlearnjax.report.results import load_results

__all__ = [
    "grid_plots",
    "html",
    "load_results",
    "plots",
    "population_plots",
    "protection_plots",
    "results",
    "sample_plots",
    "selection_plots",
    "table",
]
