"""Classification: accuracies, membership inference, distances of probabilities to the oracles'."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.common import runner
from experiments.common.evaluations import Arrays, Evaluation, Gap, Relearn, sets
from experiments.common.measure import Bench, fresh
from unlearnjax import audit
from unlearnjax.report import table
from unlearnjax.types import Task, Variables


class Context(NamedTuple):
    """The problem, and how a model that was never trained predicts the forget set."""

    bench: Bench
    novice: Callable[[], np.ndarray]


def prepare(run: runner.Run, bench: Bench) -> Context:
    """Needs no training; the novice predicts once it is asked."""

    @functools.cache
    def novice():
        rng = runner.key(bench.config.seed, "incompetent")
        return sets.logits(bench, bench.task, fresh(bench.task, bench.train, rng), softmax=True)

    return Context(bench, novice)


def observe(context: Context, task: Task, variables: Variables) -> Arrays:
    """Numbers per example, and `predictions`: the probabilities of the forget set `[N, C]`."""
    arrays = sets.observe(context.bench, task, variables)
    return arrays | {"predictions": sets.logits(context.bench, task, variables, softmax=True)}


def numbers(context: Context, arrays: Arrays, seed: int) -> table.Row:
    """See `audit.summarise`."""
    return audit.summarise(sets.per_set(arrays), seed=seed)


def against_oracles(
    context: Context, rows: Sequence[table.Row], arrays: Sequence[Arrays]
) -> list[table.Row]:
    """See `audit.against_oracles`."""
    predicted = [own["predictions"] for own in arrays]
    return audit.against_oracles(rows, predicted, context.novice())


COLUMNS = table.Columns(
    definitions={**audit.COLUMNS, **sets.LOSSES},
    printed=(
        "forget_accuracy",
        "retain_accuracy",
        "test_accuracy",
        "mia",
        "anamnesis",
        "average_gap",
    ),
    units={
        "forget_accuracy": ("forget %", 100, 1),
        "retain_accuracy": ("retain %", 100, 1),
        "test_accuracy": ("test %", 100, 1),
        "unseen_accuracy": ("unseen %", 100, 1),
        "nomus": ("NoMUS %", 100, 1),
        **sets.UNITS,
    },
    plain=("average_gap", "anamnesis"),
    spreading=("forget_accuracy", "retain_accuracy", "test_accuracy", "average_gap"),
    forgotten=("forget_accuracy",),
    collapsed={"test_accuracy": -0.1},
)

EVALUATION = Evaluation(
    prepare=prepare,
    observe=observe,
    numbers=numbers,
    against_oracles=against_oracles,
    relearn=Relearn("accuracy", lambda original, margin: original["forget_accuracy"] - margin),
    gap=Gap(
        {
            "average_gap": "mean absolute difference of forget, retain and test accuracy and MIA "
            "efficacy",
            "corrective_gap": "mean absolute difference of corrected and clean accuracy",
        },
        audit.average_gap,
    ),
    required_finite=sets.REQUIRED_FINITE,
    columns=COLUMNS,
    reproduced=(
        "forget_accuracy",
        "retain_accuracy",
        "test_accuracy",
        "unseen_accuracy",
        "average_gap",
        "corrective_gap",
    ),
    figures=functools.partial(sets.figures, metric="accuracy"),
)
