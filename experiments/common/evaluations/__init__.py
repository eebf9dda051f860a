"""How a modality judges its models: all that the main job, sweeps and reports ask of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unlearnjax import checks, importing
from unlearnjax.report import table
from unlearnjax.types import Task, Variables

Context = Any
Arrays = Mapping[str, np.ndarray]


class Relearn(NamedTuple):
    """When the forget set counts as known again.

    Attributes:
      metric: of `audit.relearn_time`.
      target: `(row of the original, margin) -> value`.
    """

    metric: str
    target: Callable[[table.Row, float], float]


BY_ACCURACY = Relearn("accuracy", lambda original, margin: original["forget_accuracy"] - margin)
BY_LOSS = Relearn("loss", lambda original, margin: original["forget_loss"] * (1 + margin))


class Gap(NamedTuple):
    """How far a model is from the oracle, in one number.

    Attributes:
      ranks: columns by which a leaderboard may rank, and what they mean; the first is the default.
      distance: `(row, mean row of the oracles) -> number` of what `numbers` gives, for sweeps.
    """

    ranks: Mapping[str, str]
    distance: Callable[[table.Row, table.Row], float]


class Evaluation(NamedTuple):
    """How the models of a modality are judged.

    Attributes:
      prepare: `(run, bench) -> context`: what is made once and used for every model, such as judges
        or features, trained with checkpoints in `run`.
      observe: `(context, task, variables) -> {name: array}`: what a model does; kept with its row.
      numbers: `(context, arrays, seed) -> {column: number}`: the audits of one model by itself.
      against_oracles: `(context, rows, arrays of each row) -> rows` with the columns that compare
        with the rows of method 'oracle'.
      relearn: when the forget set is known again.
      gap: what leaderboards rank by and sweeps minimise.
      required_finite: columns of `numbers` without which a row is not worth keeping.
      columns: what columns mean, which are printed, and which decide that a model collapsed.
      reproduced: columns that are the same again on another machine, but for a band.
      stages: names of the checkpoints of what `prepare` trains.
      trailed: of what `observe` gives, what is kept of the models after each request but the last,
        with `_after0`, ... at the end of its name.
      figures: `(bench, summary, {method: arrays of each seed}) -> {name: (caption, figure)}`.
      approve: `(context, arrays of each original)`: raises `ValueError` where what the originals do
        cannot be judged; asked before anything is forgotten. `None`: whatever they do can be.
      examples: `(bench, {method: arrays of each seed}) -> {heading: columns}`: further tables of
        the report, of texts, see `html.table`.
      under_oracle: `(context, task, variables of an oracle, arrays) -> {column: number}`: what an
        oracle makes of what a model did. Rows have the mean over oracles, an oracle's over the
        others. `None`: they are not asked.
    """

    prepare: Callable[..., Context]
    observe: Callable[[Context, Task, Variables], Arrays]
    numbers: Callable[[Context, Arrays, int], table.Row]
    against_oracles: Callable[[Context, Sequence[table.Row], Sequence[Arrays]], list[table.Row]]
    relearn: Relearn
    gap: Gap
    required_finite: Sequence[str]
    columns: table.Columns
    reproduced: Sequence[str]
    figures: Callable[..., dict[str, tuple[str, Any]]]
    approve: Callable[[Context, Sequence[Arrays]], None] | None = None
    examples: Callable[..., dict[str, list[tuple[str, list[str]]]]] = lambda bench, arrays: {}
    under_oracle: Callable[[Context, Task, Variables, Arrays], table.Row] | None = None
    stages: Sequence[str] = ()
    trailed: Sequence[str] = ()


ROOM = "experiments.common.evaluations"
# By the task they are for; each is imported when a config asks for it.
BY_TASK = {
    "classification": f"{ROOM}.classification:EVALUATION",
    "regression": f"{ROOM}.regression:EVALUATION",
    "diffusion": f"{ROOM}.generation:EVALUATION",
    "text_diffusion": f"{ROOM}.style_grid:EVALUATION",
    "node_classification": f"{ROOM}.graph:EVALUATION",
    "link_prediction": f"{ROOM}.graph:EVALUATION",
    "language": f"{ROOM}.language:EVALUATION",
}


def of(config: Mapping[str, Any]) -> Evaluation:
    """The evaluation that a config names, as its `evaluation` or else by its `task`.

    Raises:
      ValueError: if it is neither one of `BY_TASK` nor the import path of an `Evaluation`.
    """
    field = "evaluation" if config.get("evaluation") else "task"
    name = config.get(field) or ""
    if not importing.is_path(name):
        checks.one_of(**{field: (name, tuple(BY_TASK))})
    found = importing.imported(BY_TASK.get(name, name))
    if not isinstance(found, Evaluation):
        raise ValueError(
            f"{field} {name!r} must name an Evaluation, got {type(found).__name__}; a task of "
            "your own needs its config.evaluation"
        )
    return found
