"""One-shot updates against closed forms: a retrained ridge model, Fisher variances in NumPy."""

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


C = 4
ALPHA, BOUND, LAST_BOUND = 1e-4, 60.0, 20.0


@pytest.fixture(scope="module")
def network():
    """Two layers, the first with a kernel in the form of a convolution's and as wide as the last.

    Class 2 is in no retain example that counts.
    """
    rng = np.random.default_rng(7)
    params = {
        "first": {"kernel": rng.normal(size=(2, 3, 2, C)), "bias": rng.normal(size=C)},
        "last": {"kernel": rng.normal(size=(C, C)), "bias": rng.normal(size=C)},
    }
    params["first"]["bias"][3] = -100.0  # a dead unit: nothing depends on its parameters
    inputs = rng.normal(size=(10, 12)) * np.geomspace(0.05, 3, 12)
    targets = np.array([0, 1, 3, 0, 1, 3, 2, 0, 1, 3])
    weight = np.array([1, 1, 2, 1, 0.5, 1, 0, 1, 1, 3])
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    retain = {"inputs": inputs.astype(np.float32), "targets": targets, "index": np.arange(10)}

    def apply(variables, batch, rng, train):
        first, last = variables["params"]["first"], variables["params"]["last"]
        hidden = jax.nn.relu(batch["inputs"] @ first["kernel"].reshape(12, C) + first["bias"])
        return {"logits": hidden @ last["kernel"] + last["bias"]}, variables

    task = tasks.classification(tasks.Model(lambda rng, batch: {}, apply))
    return task, {"params": params}, {**retain, "weight": weight.astype(np.float32)}


def fisher_by_loops(params, retain, batch_size):
    """Backpropagation by hand, batch by batch and label by label."""
    first, last = (jax.tree.map(np.float64, params[name]) for name in ("first", "last"))
    kernel = first["kernel"].reshape(12, C)
    total = jax.tree.map(lambda p: np.zeros(p.shape), params)
    starts = range(0, len(retain["targets"]), batch_size)
    for start in starts:
        x, weight = (retain[k][start : start + batch_size] for k in ("inputs", "weight"))
        share = weight / weight.sum()
        hidden = np.maximum(x @ kernel + first["bias"], 0)
        p = np.exp(hidden @ last["kernel"] + last["bias"])
        p /= p.sum(1, keepdims=True)
        for label in range(C):
            error = share[:, None] * (p - np.eye(C)[label])
            below = (error @ last["kernel"].T) * (hidden > 0)
            gradient = {
                "first": {"kernel": (x.T @ below).reshape(2, 3, 2, C), "bias": below.sum(0)},
                "last": {"kernel": hidden.T @ error, "bias": error.sum(0)},
            }
            probability = share @ p[:, label]
            total = jax.tree.map(lambda t, g: t + probability * g**2, total, gradient)  # noqa: B023
    return jax.tree.map(lambda t: t / len(starts), total)


def spread(network, retain, num_draws=4000, **options):
    """Means and standard deviations of the noisy parameters, and the draws themselves."""
    task, variables, _ = network
    method = unlearning.fisher_forgetting(
        alpha=ALPHA, max_inverse=BOUND, max_inverse_last=LAST_BOUND, **options
    )
    assert method.needs == {"retain", "labels", "inputs"}
    keys = jax.random.split(jax.random.key(0), num_draws)
    update = lambda key: method.update(key, task, variables, (), Request(None, retain))[0]
    draws = jax.jit(jax.vmap(update))(keys)["params"]
    means = jax.tree.map(lambda x: np.asarray(x).mean(0), draws)
    deviations = jax.tree.map(lambda x: np.asarray(x).std(0), draws)
    return means, deviations, draws


@pytest.mark.parametrize("batch_size", [4, 32])
def test_fisher_noise_has_the_published_mean_and_variance(network, batch_size):
    _, variables, retain = network
    params = variables["params"]
    means, deviations, draws = spread(network, retain, batch_size=batch_size)
    fisher = fisher_by_loops(params, retain, batch_size)
    inverse = jax.tree.map(lambda f: 1 / (f + 1e-8), fisher)
    bounds = {"first": BOUND, "last": LAST_BOUND}
    for layer, bound in bounds.items():
        kernel = np.ravel(inverse[layer]["kernel"])
        assert 0 < (kernel > bound).sum() < kernel.size, "the bound decides all or nothing"
        expected = jax.tree.map(lambda i: ALPHA * np.minimum(i, bound), inverse[layer])  # noqa: B023
        mean = jax.tree.map(np.array, params[layer])
        axis = {"first": 2, "last": 0}[layer]  # the inputs' axis, of all that the kernel has
        shape = expected["kernel"].shape
        expected["kernel"] = np.broadcast_to(expected["kernel"].mean(axis, keepdims=True), shape)
        expected["kernel"] = expected["kernel"].copy()
        expected["bias"] *= 10  # it is one-dimensional
        if layer == "last":
            expected["kernel"] *= 10
            for name in ("kernel", "bias"):
                expected[name][..., 2] = 1e-4 * 10
                mean[name][..., 2] = 0
        for name in ("kernel", "bias"):
            deviation = np.sqrt(expected[name])
            np.testing.assert_allclose(deviations[layer][name], deviation, rtol=0.06)
            # Five standard errors of a mean of 4,000.
            assert (np.abs(means[layer][name] - mean[name]) < 0.08 * deviation).all()
    # Normal, and independent from one entry and from one parameter to the next.
    flat = np.stack([np.ravel(leaf) for leaf in jax.vmap(lambda d: ravel_pytree(d)[0])(draws)])
    normed = (flat - flat.mean(0)) / flat.std(0)
    assert np.mean(np.abs(normed) < 1) == pytest.approx(0.6827, abs=0.005)
    correlation = normed.T @ normed / len(normed) - np.eye(normed.shape[1])
    assert np.abs(correlation).max() < 0.09


def test_classes_that_the_retain_set_has_keep_their_logits(network):
    _, variables, retain = network
    means = spread(network, {**retain, "weight": np.ones(10, np.float32)}, num_draws=200)[0]
    last = variables["params"]["last"]
    np.testing.assert_allclose(means["last"]["kernel"][:, 2], last["kernel"][:, 2], atol=0.1)
    unweighted = {k: v for k, v in retain.items() if k != "weight"}
    again = spread(network, unweighted, num_draws=200)[0]
    problems.assert_trees_close(means, again, rtol=1e-5)


def test_every_parameter_keeps_its_type(network, softmax):
    task, variables, retain = network
    low = {"params": {**variables["params"]}}
    low["params"]["first"] = jax.tree.map(jnp.bfloat16, low["params"]["first"])
    request = Request(retain, retain)
    types = jax.tree.map(lambda leaf: leaf.dtype, low)
    methods = [unlearning.influence(method=m, num_steps=2) for m in curvature.INVERSE_METHODS]
    for method in (unlearning.fisher_forgetting(), *methods):
        update = lambda key, method=method: method.update(key, task, low, (), request)[0]
        assert jax.tree.map(lambda x: x.dtype, jax.eval_shape(update, jax.random.key(0))) == types
    # The inverse is that of wide parameters, not of rounded products.
    task, variables, request = softmax
    rounded = jax.tree.map(jnp.bfloat16, variables)
    method = unlearning.influence(damping=0.1, num_steps=40)
    widened = jax.tree.map(jnp.float32, rounded)
    wide, narrow = (method.update(None, task, v, (), request)[0] for v in (widened, rounded))
    problems.assert_trees_equal(jax.tree.map(jnp.bfloat16, wide), narrow)


def defaults(constructor):
    return {p.name: p.default for p in inspect.signature(constructor).parameters.values()}


def test_the_defaults_are_the_published_setting_and_the_theory():
    assert defaults(unlearning.fisher_forgetting) == {
        "alpha": 1e-6,
        "max_inverse": 1e3,
        "max_inverse_last": 1e2,
        "batch_size": 32,
    }
    assert defaults(unlearning.influence) == {
        "alpha": 1.0,
        "method": "cg",
        "damping": 0.01,
        "num_steps": 50,
        "scale": 10.0,
        "batch_size": 256,
    }
    assert unlearning.influence().needs == {"forget", "retain", "labels", "inputs"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unlearning.influence(method="exact"), "method must be one of"),
        (lambda: unlearning.influence(alpha=-1.0), "alpha must be >= 0"),
        (lambda: unlearning.fisher_forgetting(alpha=0.0), "alpha must be > 0"),
        (lambda: unlearning.fisher_forgetting(max_inverse=0.0), "max_inverse must be > 0"),
        (lambda: unlearning.fisher_forgetting(max_inverse_last=0.0), "max_inverse_last must be"),
        (lambda: unlearning.fisher_forgetting(batch_size=0), "batch_size must be >= 1"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_targets_that_are_no_classes_are_refused(network):
    task, variables, retain = network
    request = Request(None, {**retain, "targets": np.ones(10, np.float32)})
    with pytest.raises(ValueError, match="targets must be class ids, got float32"):
        unlearning.fisher_forgetting().update(jax.random.key(0), task, variables, (), request)
