import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from tests import problems
from unlearnjax import unlearning
from unlearnjax.types import Request

boundary = importlib.import_module("unlearnjax.unlearning.classification.boundary")
METHODS = {"shrink": unlearning.boundary_shrink, "expand": unlearning.boundary_expand}


@pytest.fixture(scope="module")
def problem():
    data = {k: jnp.asarray(v) for k, v in problems.digits(40).items()}
    task = problems.mlp((8,))
    return task, problems.init(task, data), Request(data)


def new_labels(problem, monkeypatch, **options):
    """What boundary shrink trains the forget set on."""
    task, variables, request = problem
    seen = []

    def recording(*args, **kwargs):
        def update(rng, task, variables, memory, request):
            seen.append(np.asarray(request.forget["targets"]))
            return variables, memory

        return unlearning.descend(*args, **kwargs)._replace(update=update)

    monkeypatch.setattr(boundary, "descend", recording)
    method = unlearning.boundary_shrink(optax.sgd(0.0), **options)
    method.update(jax.random.key(0), task, variables, (), request)
    return seen[0]


def attacked_labels(problem, radius, clip=True, exclude=True):
    """By NumPy, backwards through the two layers."""
    _, variables, request = problem
    first, second = (variables["params"][f"Dense_{i}"] for i in range(2))
    x = np.asarray(request.forget["inputs"], np.float64)
    own = np.eye(10)[np.asarray(request.forget["targets"])]
    low, high = x.min(), x.max()

    def forward(x):
        hidden = x.reshape(len(x), -1) @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
        return hidden, np.maximum(hidden, 0) @ np.asarray(second["kernel"]) + second["bias"]

    hidden, logits = forward(x)
    error = (scipy.special.softmax(logits, axis=1) - own) @ np.asarray(second["kernel"]).T
    gradient = ((hidden > 0) * error) @ np.asarray(first["kernel"]).T
    moved = x + radius * (high - low) * np.sign(gradient).reshape(x.shape)
    logits = forward(np.clip(moved, low, high) if clip else moved)[1]
    return np.argmax(np.where(own * exclude > 0, -np.inf, logits), axis=1)


@pytest.mark.parametrize(
    ("radius", "deviation"), [(0.02, {"exclude": False}), (0.4, {"clip": False})]
)
def test_shrink_takes_the_likeliest_other_class_of_the_attacked_example(
    problem, monkeypatch, radius, deviation
):
    """Some do not cross the boundary at the small radius, and many leave the range at the large."""
    expected = attacked_labels(problem, radius)
    for wrong in (
        attacked_labels(problem, radius / 2),
        attacked_labels(problem, -radius),
        attacked_labels(problem, radius, **deviation),
    ):
        assert not np.array_equal(wrong, expected), "the case tells nothing apart"
    np.testing.assert_array_equal(new_labels(problem, monkeypatch, radius=radius), expected)


def test_the_radius_is_a_share_of_the_range_of_the_inputs(problem, monkeypatch):
    """A first layer that undoes a shift and a scale gets the same labels."""
    task, variables, request = problem
    before = new_labels(problem, monkeypatch, radius=0.1)
    scaled = Request({**request.forget, "inputs": 100 * request.forget["inputs"] + 3})
    undoing = task._replace(
        apply=lambda v, b, r, t: task.apply(v, {**b, "inputs": (b["inputs"] - 3) / 100}, r, t)
    )
    after = new_labels((undoing, variables, scaled), monkeypatch, radius=0.1)
    np.testing.assert_array_equal(after, before)


def test_an_outlier_of_weight_0_does_not_widen_the_range(problem, monkeypatch):
    task, variables, request = problem
    before = new_labels(problem, monkeypatch, radius=0.1)
    n = len(request.forget["targets"])
    outlier = {k: jnp.concatenate([v, v[:1]]) for k, v in request.forget.items()}
    outlier["inputs"] = outlier["inputs"].at[-1].set(1e4)
    outlier["weight"] = jnp.ones(n + 1).at[-1].set(0)
    after = new_labels((task, variables, Request(outlier)), monkeypatch, radius=0.1)
    np.testing.assert_array_equal(after[:n], before)


@pytest.mark.parametrize("name", METHODS)
def test_every_batch_is_a_step_in_training_mode(problem, name):
    """A count in the place of running statistics: epochs times batches, the last one padded."""
    task, variables, request = problem
    request = Request({k: v[:5] for k, v in request.forget.items()})

    def apply(v, batch, rng, train):
        outputs, updated = task.apply({"params": v["params"]}, batch, rng, train)
        return outputs, {**updated, "count": v["count"] + train}

    method = METHODS[name](optax.sgd(0.0), num_epochs=3, batch_size=2)
    counting = task._replace(apply=apply)
    updated, _ = method.update(
        jax.random.key(0), counting, {**variables, "count": jnp.int32(0)}, (), request
    )
    assert int(updated["count"]) == 9
    problems.assert_trees_equal(updated["params"], variables["params"])


def test_expand_is_a_step_towards_one_class_more(problem):
    """A full-batch step against the gradient by hand, with the drawn row of the wider layer."""
    task, variables, request = problem
    rng = jax.random.key(4)
    method = unlearning.boundary_expand(optax.sgd(0.5), num_epochs=1, batch_size=40)
    assert method.needs == {"forget", "inputs"}
    unlabelled = Request({"inputs": request.forget["inputs"]})
    updated, _ = method.update(rng, task, variables, (), unlabelled)
    row = np.sqrt(2 / (8 + 11)) * jax.random.normal(jax.random.split(rng)[0], (8, 1))
    x = jnp.asarray(request.forget["inputs"]).reshape(40, -1)

    def loss(params):
        first, second = params["Dense_0"], params["Dense_1"]
        hidden = jnp.maximum(x @ first["kernel"] + first["bias"], 0)
        logits = hidden @ second["kernel"] + second["bias"]
        extra = (hidden @ row)[:, 0]
        return jnp.mean(jnp.log(jnp.exp(logits).sum(1) + jnp.exp(extra)) - extra)

    grads = jax.grad(loss)(variables["params"])
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, variables["params"], grads)
    problems.assert_trees_close(updated["params"], expected)


def test_defaults_are_the_authors():
    for name, own in (("shrink", {"radius": 0.1}), ("expand", {})):
        parameters = inspect.signature(METHODS[name]).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.name != "tx"}
        assert defaults == {**own, "num_epochs": 10, "batch_size": 64}


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="radius must be > 0"):
        unlearning.boundary_shrink(optax.sgd(0.1), radius=0.0)
