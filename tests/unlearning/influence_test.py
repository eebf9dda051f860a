"""The step of influence unlearning against closed forms: a retrained ridge model, NumPy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.linear_model import Ridge

from tests import problems
from unlearnjax import curvature, tasks, unlearning
from unlearnjax.types import Request


def take(data, rows):
    return {k: v[rows] for k, v in data.items()}


def linear(task_of):
    def apply(variables, batch, rng, train):
        return {"logits": batch["inputs"] @ variables["params"]["w"]}, variables

    return task_of(tasks.Model(lambda rng, batch: {}, apply))


def test_influence_gives_the_ridge_model_retrained_on_the_retain_set(rng):
    """A quadratic loss and a penalty per mean loss, as weight decay is: the step is exact."""
    n, gone, penalty = 60, 12, 0.3
    inputs = rng.normal(size=(n, 5)).astype(np.float32)
    targets = (inputs @ rng.normal(size=5) + rng.normal(size=n)).astype(np.float32)
    data = {"inputs": inputs, "targets": targets, "index": np.arange(n)}

    def fitted(rows, weight=None):
        size = len(rows) if weight is None else weight.sum()
        model = Ridge(alpha=size * penalty, fit_intercept=False)
        model.fit(inputs[rows], targets[rows], sample_weight=weight)
        return {"params": {"w": jnp.asarray(model.coef_, jnp.float32)[:, None]}}

    task = linear(tasks.regression)
    method = unlearning.influence(damping=penalty, num_steps=10, batch_size=16)
    request = Request(take(data, slice(gone)), take(data, slice(gone, n)))
    run = jax.jit(lambda v, request: method.update(None, task, v, (), request)[0])
    updated = run(fitted(np.arange(n)), request)
    problems.assert_trees_close(updated, fitted(np.arange(gone, n)), rtol=1e-4)

    weight = rng.uniform(0.2, 3, size=n).astype(np.float32)
    weighted = {**data, "weight": weight}
    request = Request(take(weighted, slice(gone)), take(weighted, slice(gone, n)))
    updated = run(fitted(np.arange(n), weight), request)
    expected = fitted(np.arange(gone, n), weight[gone:])
    problems.assert_trees_close(updated, expected, rtol=1e-4)


@pytest.fixture(scope="module")
def softmax():
    """Softmax regression at parameters that are no minimum, with its derivatives in NumPy."""
    rng = np.random.default_rng(3)
    data = {
        "inputs": rng.normal(size=(15, 4)).astype(np.float32),
        "targets": np.arange(15) % 3,
        "index": np.arange(15),
    }
    request = Request(take(data, slice(5)), take(data, slice(5, 15)))
    variables = {"params": {"w": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}}
    return linear(tasks.classification), variables, request


def gradient_and_hessian(w, part):
    x, y = np.float64(part["inputs"]), part["targets"]
    logits = np.exp(x @ np.float64(w))
    p = logits / logits.sum(1, keepdims=True)
    gradient = x.T @ (p - np.eye(3)[y]) / len(x)
    outer = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :]
    return gradient.ravel(), np.einsum("ni,nj,ncd->icjd", x, x, outer).reshape(12, 12) / len(x)


def test_influence_is_the_damped_step_of_both_gradients(softmax):
    task, variables, request = softmax
    w = variables["params"]["w"]
    forget, _ = gradient_and_hessian(w, request.forget)
    retain, hessian = gradient_and_hessian(w, request.retain)
    step = np.linalg.solve(hessian + 0.1 * np.eye(12), 5 / 15 * (forget - retain))
    method = unlearning.influence(alpha=1.7, damping=0.1, num_steps=40, batch_size=4)
    updated = method.update(None, task, variables, (), request)[0]["params"]["w"]
    np.testing.assert_allclose(updated, w + 1.7 * step.reshape(4, 3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", curvature.INVERSE_METHODS)
def test_influence_hands_its_options_to_the_inverse(softmax, method):
    task, variables, request = softmax
    w = variables["params"]["w"]
    forget, retain = (gradient_and_hessian(w, part)[0] for part in request[:2])
    vector = {"w": jnp.asarray((forget - retain).reshape(4, 3) / 3, jnp.float32)}
    options = {"method": method, "damping": 0.05, "num_steps": 3, "scale": 4.0}
    key = jax.random.key(5)
    step = curvature.inverse_hessian_vector_product(
        task, variables, request.retain, vector, rng=key, **options
    )
    updated = unlearning.influence(**options).update(key, task, variables, (), request)[0]
    np.testing.assert_allclose(updated["params"]["w"], w + step["w"], rtol=1e-5, atol=1e-6)


def test_influence_moves_a_convex_model_to_the_retrained_one():
    """L2-regularised softmax regression; its penalty is the damping, the step near exact."""
    digits = problems.digits(300)
    task, decay = problems.softmax_regression(), 0.05

    def minimum(data):
        variables = problems.init(task, data)
        flat, unravel = ravel_pytree(variables["params"])

        def loss(flat):
            outputs, _ = task.apply({"params": unravel(flat)}, data, None, False)
            return task.loss(outputs, data).mean() + decay / 2 * jnp.sum(flat**2)

        solver = optax.lbfgs()

        def step(carry, _):
            flat, state = carry
            value, grad = jax.value_and_grad(loss)(flat)
            updates, state = solver.update(grad, state, flat, value=value, grad=grad, value_fn=loss)
            return (optax.apply_updates(flat, updates), state), None

        run = jax.jit(lambda flat: jax.lax.scan(step, (flat, solver.init(flat)), length=200)[0][0])
        return {"params": unravel(run(flat))}

    forget, retain = (take(digits, s) for s in (slice(20), slice(20, 300)))
    original, oracle = minimum(digits), minimum(retain)
    method = unlearning.influence(damping=decay, num_steps=100)
    updated, _ = method.update(None, task, original, (), Request(forget, retain))

    def distance(variables):
        return float(optax.tree.norm(optax.tree.sub(variables["params"], oracle["params"])))

    assert distance(updated) < 0.15 * distance(original)


def test_every_parameter_keeps_its_type(softmax):
    task, variables, request = softmax
    w = variables["params"]["w"]

    def apply(variables, batch, rng, train):
        params = variables["params"]
        return {"logits": batch["inputs"] @ (params["low"] + params["high"])}, variables

    mixed = tasks.classification(tasks.Model(lambda rng, batch: {}, apply))
    low = {"params": {"low": w.astype(jnp.bfloat16), "high": w}}
    types = jax.tree.map(lambda leaf: leaf.dtype, low)
    for name in curvature.INVERSE_METHODS:
        method = unlearning.influence(method=name, num_steps=2)
        update = lambda key, method=method: method.update(key, mixed, low, (), request)[0]
        assert jax.tree.map(lambda x: x.dtype, jax.eval_shape(update, jax.random.key(0))) == types
    # The inverse is that of wide parameters, not of rounded products.
    rounded = jax.tree.map(jnp.bfloat16, variables)
    method = unlearning.influence(damping=0.1, num_steps=40)
    widened = jax.tree.map(jnp.float32, rounded)
    wide, narrow = (method.update(None, task, v, (), request)[0] for v in (widened, rounded))
    problems.assert_trees_equal(jax.tree.map(jnp.bfloat16, wide), narrow)


def test_passes_are_in_batches_of_the_size_asked_for(softmax):
    """Which no value shows: logits of two examples, not of 5 forgotten and 10 retained."""
    task, variables, request = softmax
    method = unlearning.influence(batch_size=2, num_steps=1)
    update = lambda variables: method.update(None, task, variables, (), request)[0]
    seen = problems.shapes(update, variables)
    assert (2, 3) in seen and not {(5, 3), (10, 3)} & seen


def test_the_defaults_are_the_theory():
    parameters = inspect.signature(unlearning.influence).parameters.values()
    assert {p.name: p.default for p in parameters} == {
        "alpha": 1.0,
        "method": "cg",
        "damping": 0.01,
        "num_steps": 50,
        "scale": 10.0,
        "batch_size": 256,
    }
    assert unlearning.influence().needs == {"forget", "retain", "inputs", "labels"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exact"}, "method must be one of"),
        ({"alpha": -1.0}, "alpha must be >= 0"),
    ],
)
def test_bad_values_are_named_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.influence(**options)
