import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.common.evaluations import classification, regression, sets
from unlearnjax import tasks
from unlearnjax.types import Request


def bench(task_of, targets):
    """A linear model of twelve examples, of which three are forgotten; four are held out."""
    rng = np.random.default_rng(0)
    part = lambda size: {
        "inputs": rng.normal(size=(size, 5)).astype(np.float32),
        "targets": targets(rng, size),
        "index": np.arange(size),
    }

    def init(rng, batch):
        width = 3 if batch["targets"].dtype.kind == "i" else 1
        return {"params": {"w": jax.random.normal(rng, (5, width))}}

    def apply(variables, batch, rng, train):
        return {"logits": batch["inputs"] @ variables["params"]["w"]}, variables

    train, val, held_out = part(12), part(3), part(4)
    problem = types.SimpleNamespace(
        forget=np.array([7, 0, 4]),
        retain=np.array([1, 2, 3, 5, 6, 8, 9, 10, 11]),
        unseen=np.array([3]),
        test=np.array([0, 2]),
    )
    forget = {name: value[problem.forget] for name, value in train.items()}
    return types.SimpleNamespace(
        config=ConfigDict({"evaluate": {"batch_size": 5}, "seed": 3}),
        task=task_of(tasks.Model(init, apply)),
        problem=problem,
        train=train,
        val=val,
        held_out=held_out,
        request=Request(forget),
        carried=None,
        requests=(),
    )


@pytest.fixture(scope="module")
def classes():
    return bench(tasks.classification, lambda rng, size: rng.integers(3, size=size))


def test_every_example_of_every_set_is_observed_in_its_order(classes):
    w = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    context = classification.prepare(None, classes)
    arrays = classification.observe(context, classes.task, {"params": {"w": jnp.asarray(w)}})
    assert set(sets.per_set(arrays)) == set(sets.SETS)
    places = {
        "forget": ("train", classes.problem.forget),
        "retain": ("train", classes.problem.retain),
        "val": ("val", np.arange(3)),
        "test": ("held_out", classes.problem.test),
        "unseen": ("held_out", classes.problem.unseen),
    }
    for name, (data, rows) in places.items():
        part = getattr(classes, data)
        logits = np.float64(part["inputs"][rows]) @ w
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        own = p[np.arange(len(rows)), part["targets"][rows]]
        found = sets.per_set(arrays)[name]
        np.testing.assert_allclose(found["loss"], -np.log(own), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["confidence"], own, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(
            arrays[f"{name}_accuracy"], p.argmax(1) == part["targets"][rows]
        )
        if name == "forget":
            np.testing.assert_allclose(arrays["predictions"], p, rtol=1e-4, atol=1e-6)
    row = classification.numbers(context, arrays, 0)
    assert row["retain_accuracy"] == pytest.approx(arrays["retain_accuracy"].mean())
    # A novice knows nothing of these parameters, and is asked once.
    novice = context.novice()
    assert novice is context.novice() and novice.shape == (3, 3)
    np.testing.assert_allclose(novice.sum(1), 1, rtol=1e-5)
    assert not np.allclose(novice, arrays["predictions"])


def test_numbers_of_regression_are_errors_and_its_predictions_numbers():
    numbers = bench(tasks.regression, lambda rng, size: rng.normal(size=size).astype(np.float32))
    w = np.random.default_rng(1).normal(size=(5, 1)).astype(np.float32)
    context = regression.prepare(None, numbers)
    arrays = regression.observe(context, numbers.task, {"params": {"w": jnp.asarray(w)}})
    forget = numbers.request.forget
    predicted = np.float64(forget["inputs"]) @ w
    np.testing.assert_allclose(arrays["predictions"], predicted, rtol=1e-4, atol=1e-5)
    error = np.abs(predicted[:, 0] - forget["targets"]).mean()
    assert regression.numbers(context, arrays, 0)["forget_error"] == pytest.approx(error, rel=1e-4)


def test_bfloat16_is_kept_with_a_row(classes, tmp_path):
    w = jax.random.normal(jax.random.key(0), (5, 3), jnp.bfloat16)
    low = lambda part: {**part, "inputs": jnp.asarray(part["inputs"], jnp.bfloat16)}
    low_bench = types.SimpleNamespace(**vars(classes))
    for name in ("train", "val", "held_out"):
        setattr(low_bench, name, low(getattr(classes, name)))
    low_bench.request = Request(low(classes.request.forget))
    context = classification.prepare(None, low_bench)
    arrays = classification.observe(context, classes.task, {"params": {"w": w}})
    np.savez(tmp_path / "row.npz", **arrays)
    with np.load(tmp_path / "row.npz") as stored:
        for name, values in arrays.items():
            assert values.dtype.kind in "biuf", name
            np.testing.assert_array_equal(stored[name], values)


@pytest.mark.parametrize(
    ("evaluation", "metric", "unit", "scale"),
    [(classification, "accuracy", "points", 100), (regression, "error", "std. dev.", 1)],
)
def test_figures_of_a_run_with_importances(classes, evaluation, metric, unit, scale):
    gaps = {f"{name}_{metric}_gap": 0.1 for name in ("forget", "retain", "test")}
    spreads = {f"{name}_{metric}_std": 0.02 for name in ("forget", "retain", "test")}
    summary = [
        {"method": name, "seconds_ratio": 0.5, **gaps, **spreads}
        for name in ("oracle", "original", "ssd")
    ]
    losses = {f"{name}_loss": np.ones(4) for name in sets.SETS}
    arrays = {name: [losses, losses] for name in ("oracle", "original", "ssd")}
    found = evaluation.EVALUATION.figures(classes, summary, arrays)
    assert list(found) == [f"{metric}_gaps", "losses", "trade_off"]
    arrays["original"] = [{**losses, "fisher_shares": np.full(4, 0.25)}] * 2
    found = evaluation.EVALUATION.figures(classes, summary, arrays)
    assert "fisher_shares" in found
    axes = found[f"{metric}_gaps"][1].axes
    assert axes[0].get_xlabel() == f"{unit} from the oracle"
    assert axes[0].patches[0].get_width() == pytest.approx(0.1 * scale)
