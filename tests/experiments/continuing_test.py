"""A modality that no file of the house knows goes through the main job and all that follows it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import compare, publish, reproduce
from experiments.common import leaderboard
from tests.experiments import cli, continuing
from unlearnjax import tasks, training

METHODS = ["oracle", "original", "scrub", "ssd"]


@pytest.fixture(scope="module")
def run(tfds_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("continuing") / "run"
    command = cli.command(workdir, config="tests/experiments/continuing.py")
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    return process, workdir, json.loads((workdir / "results.json").read_text())


def test_it_is_forgotten_audited_and_reported(run):
    process, workdir, results = run
    rows = {row["method"]: row for row in results["rows"]}
    assert list(rows) == ["original", "oracle", "scrub", "ssd"]
    # Sequences whose step the oracle never saw cannot be continued, the others can.
    assert rows["original"]["forget_accuracy"] > 0.9 > 0.2 > rows["oracle"]["forget_accuracy"]
    assert min(row["test_accuracy"] for row in rows.values()) > 0.8
    assert rows["scrub"]["forget_accuracy"] < 0.8 * rows["original"]["forget_accuracy"]
    assert rows["ssd"]["forget_accuracy"] < rows["original"]["forget_accuracy"]
    assert rows["oracle"]["token_gap"] == 0 < rows["scrub"]["token_gap"]
    assert rows["original"]["relearn_steps"] == 0 < rows["oracle"]["relearn_steps"]
    with np.load(workdir / "rows" / "scrub_seed0.npz") as arrays:
        kept = arrays["forget_accuracy"]
    assert kept.mean() == pytest.approx(rows["scrub"]["forget_accuracy"], rel=1e-6)
    page = (workdir / "report.html").read_text()
    for text in ("forget tokens %", "answer tokens right", "Training loss", "Fisher trace"):
        assert text in page
    assert "forget tokens %" in process.stdout_text and "MIA" not in process.stdout_text
    assert {path.stem for path in (workdir / "plots").iterdir()} >= {"accuracy_gaps", "losses"}


def test_what_reads_finished_runs_reads_it_as_well(run):
    _, workdir, results = run
    head = publish.markdown(results).splitlines()[0]
    assert head.startswith("| method | forget tokens % | retain_accuracy | test_accuracy |")
    cells = dict(compare.merged([str(workdir), str(workdir)]).cells)
    assert [name.partition(" ")[0] for name in cells["method"]] == 2 * METHODS
    scrub = next(row for row in results["summary"] if row["method"] == "scrub")
    lines = reproduce.compare(scrub, scrub, continuing.EVALUATION.reproduced)
    assert {line["column"] for line in lines} == {*continuing.JUDGED, "token_gap"}
    ranked = leaderboard.rank({"class:2": results["summary"]}, "token_gap")
    assert [row["method"] for row in ranked][0] == "oracle"
    config = continuing.get_config()
    assert list(continuing.EVALUATION.gap.ranks) == ["token_gap"] and config.num_seeds == 1


def test_the_task_counts_the_answer_alone_and_compares_predictions_there():
    task = continuing.continuing(tasks.from_linen(continuing.Recurrent(width=8)))
    data = {name: value[:6] for name, value in continuing.sequences().train.items()}
    data["index"] = np.arange(6)
    variables = task.init(jax.random.key(0), data)
    outputs, _ = task.apply(variables, data, None, False)
    logits = np.asarray(outputs["logits"], np.float64)
    by_hand = []
    for row in range(6):
        places = np.flatnonzero(data["answer"][row])
        own = logits[row, places - 1] - np.log(np.exp(logits[row, places - 1]).sum(1))[:, None]
        by_hand.append(-own[np.arange(len(places)), data["inputs"][row, places]].mean())
    np.testing.assert_allclose(task.loss(outputs, data), by_hand, rtol=1e-5)
    np.testing.assert_allclose(
        training.evaluate(task, variables, data, batch_size=4)["loss"], by_hand, rtol=1e-5
    )
    # What stands in the padding changes nothing.
    padding = np.cumsum(data["answer"][:, ::-1], 1)[:, ::-1] == 0
    padding &= np.arange(continuing.LENGTH) >= continuing.PROMPT
    other = {**data, "inputs": np.where(padding, 7, data["inputs"])}
    again, _ = task.apply(variables, other, None, False)
    np.testing.assert_allclose(task.loss(again, other), by_hand, rtol=1e-5)
    assert padding.any() and not jnp.array_equal(outputs["logits"], again["logits"])
    np.testing.assert_allclose(task.divergence(outputs, outputs, data), np.zeros(6), atol=1e-6)
    moved = {"logits": outputs["logits"] + jnp.arange(continuing.TOKENS)}
    assert (task.divergence(outputs, moved, data) > 0.1).all()
