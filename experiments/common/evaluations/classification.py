"""Classification: accuracies, membership inference, distances of probabilities to the oracles'."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.common import runner
from experiments.common.evaluations import BY_ACCURACY, Arrays, Evaluation, Gap, probes, sets
from experiments.common.measure import Bench, fresh
from unlearnjax import audit
from unlearnjax.report import table
from unlearnjax.types import Task, Variables


class Context(NamedTuple):
    """The problem, how a model predicts that was never trained, how one is probed."""

    bench: Bench
    novice: Callable[[], np.ndarray]
    probe: Callable[[Task, Variables], np.ndarray] | None


def prepare(run: runner.Run, bench: Bench) -> Context:
    """Needs no training; the novice predicts once it is asked."""

    @functools.cache
    def novice():
        rng = runner.key(bench.config.seed, "incompetent")
        untrained = fresh(bench.task, bench.train, rng, bench.carried)
        return sets.logits(bench, bench.task, untrained, softmax=True)

    probe = None
    if "probe" in bench.config.evaluate:  # runs published before there were probes have none
        probe = functools.partial(probes.observe, probes.prepare(bench), bench)
    return Context(bench, novice, probe)


def observe(context: Context, task: Task, variables: Variables) -> Arrays:
    """Numbers per example, `predictions`: probabilities of the forget set `[N, C]`, and `probe`."""
    bench = context.bench
    arrays = sets.observe(bench, task, variables)
    arrays["predictions"] = sets.logits(bench, task, variables, softmax=True)
    if context.probe is not None:
        arrays["probe"] = context.probe(task, variables)
    return arrays


def numbers(context: Context, arrays: Arrays, seed: int) -> table.Row:
    """See `audit.summarise` and `audit.linear_probe`."""
    row = audit.summarise(sets.per_set(arrays), seed=seed)
    return row | (probes.numbers(arrays["probe"]) if "probe" in arrays else {})


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
        "probe",
        "anamnesis",
        "average_gap",
    ),
    units={
        "forget_accuracy": ("forget %", 100, 1),
        "retain_accuracy": ("retain %", 100, 1),
        "test_accuracy": ("test %", 100, 1),
        "unseen_accuracy": ("unseen %", 100, 1),
        "nomus": ("NoMUS %", 100, 1),
        "probe": ("probe %", 100, 1),
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
    relearn=BY_ACCURACY,
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
