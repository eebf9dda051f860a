"""Which evaluation a config names, and what the main job asks of each."""

import pytest

from experiments import unlearn
from experiments.common import evaluations, leaderboard
from experiments.common.evaluations import classification, regression, sets
from tests.experiments import continuing
from unlearnjax.report import table


def test_the_task_names_the_evaluation_unless_the_config_names_another():
    assert evaluations.of({"task": "classification"}) is classification.EVALUATION
    assert evaluations.of({"task": "regression", "evaluation": None}) is regression.EVALUATION
    path = "tests.experiments.continuing:EVALUATION"
    assert evaluations.of({"task": "regression", "evaluation": path}) is continuing.EVALUATION
    assert evaluations.of({"task": path}) is continuing.EVALUATION


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"task": "classify"},
            r"task must be one of \('classification', 'regression', 'diffusion', "
            r"'text_diffusion', 'node_classification', 'link_prediction', 'language'\)",
        ),
        ({}, "task must be one of"),
        ({"task": "regression", "evaluation": "errors"}, "evaluation must be one of"),
        ({"task": "no_such_module:X"}, "cannot be imported"),
        ({"task": "math:pi"}, "task 'math:pi' must name an Evaluation, got float"),
    ],
)
def test_what_names_no_evaluation_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        evaluations.of(config)


@pytest.mark.parametrize("task", evaluations.BY_TASK)
def test_columns_that_are_read_are_defined(task):
    found = evaluations.of({"task": task})
    columns = found.columns
    read = {*columns.printed, *columns.plain, *columns.spreading, *columns.forgotten}
    read |= {*columns.collapsed, *found.required_finite, *found.gap.ranks, *found.reproduced}
    assert read <= set(columns.definitions)
    assert set(columns.units) <= {*columns.definitions, "gap"}
    assert {f"{name}_loss" for name in sets.SETS} <= set(columns.definitions)


def test_relearning_ends_near_the_original():
    known = classification.EVALUATION.relearn
    assert known.metric == "accuracy"
    assert known.target({"forget_accuracy": 0.75}, 0.25) == 0.5
    known = regression.EVALUATION.relearn
    assert known.metric == "loss" and known.target({"forget_loss": 0.5}, 0.25) == 0.625


@pytest.mark.parametrize(
    ("evaluation", "column", "limit"),
    [(classification, "test_accuracy", -0.1), (regression, "test_error", 0.2)],
)
def test_a_model_collapsed_that_is_worse_on_test_data_than_the_limit(evaluation, column, limit):
    gaps = {"original": 0.0, "near": 0.95 * limit, "far": 1.05 * limit, "better": -3 * limit}
    summary = [{"method": name, f"{column}_gap": gap} for name, gap in gaps.items()]
    assert table.verdicts(summary, evaluation.EVALUATION.columns) == {"far": "collapsed"}


def test_gaps_are_mean_absolute_differences():
    row = {"forget_error": 0.5, "retain_error": 0.25, "test_error": 1.0}
    ideal = {"forget_error": 1.0, "retain_error": 0.25, "test_error": 0.75}
    assert regression.EVALUATION.gap.distance(row, ideal) == pytest.approx(0.25)
    row = {"forget_accuracy": 0.5, "retain_accuracy": 1.0, "test_accuracy": 0.75}
    ideal = {"forget_accuracy": 0.0, "retain_accuracy": 1.0, "test_accuracy": 1.0}
    gap = classification.EVALUATION.gap.distance
    assert gap({**row, "mia_efficacy": 0.5}, {**ideal, "mia_efficacy": 0.75}) == 0.25


def test_rows_without_a_finite_loss_end_the_run():
    good = dict.fromkeys(sets.REQUIRED_FINITE, 1.0) | {"mia": float("nan")}
    unlearn.stop_if_not_finite("ssd", 0, good, sets.REQUIRED_FINITE)
    for name in sets.REQUIRED_FINITE:
        with pytest.raises(FloatingPointError, match=f"ssd, seed 0: {name} is not finite; lower"):
            unlearn.stop_if_not_finite("ssd", 0, {**good, name: float("inf")}, [name])


def test_a_leaderboard_ranks_by_what_the_evaluation_has(tmp_path):
    from configs import leaderboard as config_lib

    config = config_lib.get_config("digits,model=mlp")
    config.task, config.rank = "regression", "corrective_gap"
    with pytest.raises(ValueError, match=r"rank must be one of \('average_gap',\)"):
        leaderboard.story(config, None, None)
