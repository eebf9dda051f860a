"""Regression: errors, membership inference, distributions of predictions beside the oracles'."""

import functools
from collections.abc import Sequence

from experiments.common import runner
from experiments.common.evaluations import BY_LOSS, Arrays, Evaluation, Gap, sets
from experiments.common.measure import Bench
from unlearnjax.audit import regression
from unlearnjax.report import table
from unlearnjax.types import Task, Variables


def prepare(run: runner.Run, bench: Bench) -> Bench:
    """Nothing is made once: the context is the problem."""
    return bench


def observe(bench: Bench, task: Task, variables: Variables) -> Arrays:
    """Numbers per example, and `predictions` of the forget set `[N, 1]`."""
    arrays = sets.observe(bench, task, variables)
    return arrays | {"predictions": sets.logits(bench, task, variables)}


def numbers(bench: Bench, arrays: Arrays, seed: int) -> table.Row:
    """See `audit.regression.summarise`."""
    return regression.summarise(sets.per_set(arrays), seed=seed)


def against_oracles(
    bench: Bench, rows: Sequence[table.Row], arrays: Sequence[Arrays]
) -> list[table.Row]:
    """See `audit.regression.against_oracles`."""
    return regression.against_oracles(rows, [own["predictions"] for own in arrays])


COLUMNS = table.Columns(
    definitions={**regression.COLUMNS, **sets.LOSSES},
    printed=(
        "forget_error",
        "retain_error",
        "test_error",
        "wasserstein",
        "mia",
        "anamnesis",
        "average_gap",
    ),
    units={
        "forget_error": ("forget error", 1, 3),
        "retain_error": ("retain error", 1, 3),
        "test_error": ("test error", 1, 3),
        "wasserstein": ("Wasserstein", 1, 3),
        **sets.UNITS,
    },
    plain=("average_gap", "wasserstein", "anamnesis"),
    spreading=("forget_error", "retain_error", "test_error", "average_gap"),
    forgotten=("forget_error",),
    collapsed={"test_error": 0.2},
)

EVALUATION = Evaluation(
    prepare=prepare,
    observe=observe,
    numbers=numbers,
    against_oracles=against_oracles,
    relearn=BY_LOSS,
    gap=Gap(
        {"average_gap": "mean absolute difference of forget, retain and test error"},
        regression.average_gap,
    ),
    required_finite=sets.REQUIRED_FINITE,
    columns=COLUMNS,
    reproduced=("forget_error", "retain_error", "test_error", "average_gap", "wasserstein"),
    figures=functools.partial(sets.figures, metric="error", scale=1, unit="std. dev."),
)
