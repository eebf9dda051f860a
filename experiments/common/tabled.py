"""The report of a story that ends in several tables: page, files, figures and what is printed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.common.runner import Run
from unlearnjax import parallel
from unlearnjax.report import html, table

Cells = list[tuple[str, list[str]]]


def write(
    config: ConfigDict,
    run: Run,
    title: str,
    lead: str,
    tables: Mapping[str, Cells],
    figures: Mapping[str, tuple[str, Figure]],
    definitions: Mapping[str, str],
    rows: Sequence[table.Row],
    summary: Sequence[table.Row],
    extra: Mapping[str, object],
    caption: str = "",
) -> None:
    """Writes the report.

    Args:
      config, run: of the experiment.
      title, lead: heading of the page, and what stands below it.
      tables: by name; the first is the main one.
      figures: by name, with what they show.
      definitions: of the columns.
      rows, summary, extra: see `Run.write_results`.
      caption: below the printed tables.
    """
    drawn = {name: (text, html.figure_png(own, 100)) for name, (text, own) in figures.items()}
    first, *rest = tables
    page = html.page(
        title,
        lead,
        tables[first],
        dict(drawn.values()),
        definitions,
        {"Configuration": config.to_yaml()},
        tables={name: tables[name] for name in rest},
    )
    run.write_results(rows, summary, page, extra)
    run.write_figures({name: png for name, (_, png) in drawn.items()})
    if parallel.is_main_process():
        for name, cells in tables.items():
            table.print_columns(cells, f"{title}: {name}", caption)
        print(f"report: {run.workdir / 'report.html'}")


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and its confidence interval by Student's t."""
    from scipy import stats

    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    reach = stats.t.ppf((1 + level) / 2, len(values) - 1) * error
    return float(mean), float(mean - reach), float(mean + reach)
