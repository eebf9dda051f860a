import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import curvature, tasks

N, DAMPING = 60, 0.1


@pytest.fixture(scope="module")
def problem():
    """Softmax regression on 4x4 digits: a convex loss with 170 parameters."""
    digits = problems.digits(N)
    small = digits["inputs"].reshape(N, 4, 2, 4, 2, 1).mean((2, 4))
    data = {**digits, "inputs": jnp.asarray(small)}
    task = problems.softmax_regression()
    return task, problems.init(task, data), data


@pytest.fixture(scope="module")
def dense(problem):
    """The Hessian as a matrix, the gradient, and what makes a tree of a vector."""
    task, variables, data = problem
    flat, unravel = ravel_pytree(variables["params"])

    def loss(flat):
        outputs, _ = task.apply({**variables, "params": unravel(flat)}, data, None, False)
        return task.loss(outputs, data).mean()

    return np.asarray(jax.hessian(loss)(flat), np.float64), jax.grad(loss)(flat), unravel


@pytest.mark.parametrize("batch_size", [7, 60, 1000])
def test_products_are_those_of_the_dense_hessian(problem, dense, batch_size):
    task, variables, data = problem
    hessian, gradient, unravel = dense
    vector = np.random.default_rng(0).normal(size=len(hessian))
    product = curvature.hessian_vector_product(
        task, variables, data, unravel(jnp.asarray(vector, jnp.float32)), batch_size=batch_size
    )
    np.testing.assert_allclose(ravel_pytree(product)[0], hessian @ vector, atol=1e-4)
    mean = curvature.mean_gradient(task, variables, data, batch_size=batch_size)
    np.testing.assert_allclose(ravel_pytree(mean)[0], gradient, atol=1e-5)


@pytest.mark.parametrize(("method", "num_steps"), [("cg", 60), ("lissa", 300)])
def test_inverse_products_solve_the_damped_system(problem, dense, method, num_steps):
    task, variables, data = problem
    hessian, gradient, unravel = dense
    expected = np.linalg.solve(hessian + DAMPING * np.eye(len(hessian)), gradient)
    # The series converges where the eigenvalues are below twice its scale.
    scale = 0.6 * (np.linalg.eigvalsh(hessian).max() + DAMPING)
    solution = curvature.inverse_hessian_vector_product(
        task, variables, data, unravel(gradient),
        method=method, damping=DAMPING, num_steps=num_steps, scale=scale,
    )  # fmt: skip
    error = np.linalg.norm(ravel_pytree(solution)[0] - expected) / np.linalg.norm(expected)
    assert error < 1e-3


@pytest.mark.parametrize("steps", [1, N - 1, N])
def test_woodfisher_is_its_recursion(problem, dense, steps):
    """Against the recursion in NumPy, on the same examples."""
    task, variables, data = problem
    _, gradient, unravel = dense
    key = jax.random.key(5)
    solution = curvature.inverse_hessian_vector_product(
        task, variables, data, unravel(gradient), method="woodfisher", num_steps=steps, rng=key
    )
    grads = jax.vmap(lambda g: ravel_pytree(g)[0])(
        curvature.per_example_gradients(task, variables, {**data, "weight": jnp.ones(N)})
    )
    rows = np.asarray(jax.random.choice(key, N, (steps + 1,), replace=steps >= N))
    k, o = np.asarray(gradient, np.float64), np.asarray(grads[rows[0]], np.float64)
    for row in rows[1:]:
        g = np.asarray(grads[row], np.float64)
        k, o = k - o * (k @ g) / (steps + o @ g), o - o * (o @ g) / (steps + o @ g)
    np.testing.assert_allclose(ravel_pytree(solution)[0], k, atol=1e-5)


@pytest.mark.parametrize(("damping", "num_steps"), [(0.05, 1), (0.05, 4), (0.5, 2)])
def test_conjugate_gradients_stop_after_their_steps(problem, dense, damping, num_steps):
    """The iterates of SciPy, which are far from the solution yet."""
    task, variables, data = problem
    hessian, gradient, unravel = dense
    matrix = hessian + damping * np.eye(len(hessian))
    expected, _ = scipy.sparse.linalg.cg(matrix, gradient, maxiter=num_steps, rtol=1e-12)
    assert np.linalg.norm(matrix @ expected - gradient) > 0.01 * np.linalg.norm(gradient)
    solution = curvature.inverse_hessian_vector_product(
        task, variables, data, unravel(gradient), damping=damping, num_steps=num_steps
    )
    np.testing.assert_allclose(ravel_pytree(solution)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"damping": 1.0}, {"num_steps": 3}, {"scale": 40.0}, {"batch_size": 7}]
)
def test_lissa_is_the_truncated_series(problem, dense, options):
    """`sum_j (I - (H + damping I) / scale)^j v / scale`, j from 0 to `num_steps`."""
    task, variables, data = problem
    hessian, gradient, unravel = dense
    o = {"damping": 0.01, "num_steps": 50, "scale": 10.0} | options
    factor = np.eye(len(hessian)) - (hessian + o["damping"] * np.eye(len(hessian))) / o["scale"]
    terms = [np.asarray(gradient, np.float64)]
    for _ in range(o["num_steps"]):
        terms.append(factor @ terms[-1])
    solution = curvature.inverse_hessian_vector_product(
        task, variables, data, unravel(gradient), method="lissa", **options
    )
    np.testing.assert_allclose(ravel_pytree(solution)[0], sum(terms) / o["scale"], atol=1e-5)


@pytest.mark.parametrize("method", ["cg", "lissa"])
def test_weights_weigh(problem, method):
    """An example of weight 2 is there twice; one of weight 0 is not there."""
    task, variables, data = problem
    rows = np.repeat(np.arange(12), np.arange(12) % 3)
    repeated = {k: v[rows] for k, v in data.items()}
    weighted = {k: v[:12] for k, v in data.items()} | {"weight": np.arange(12) % 3.0}
    gradients = [
        curvature.mean_gradient(task, variables, d, batch_size=5) for d in (weighted, repeated)
    ]
    problems.assert_trees_close(*gradients)
    solve = lambda d: curvature.inverse_hessian_vector_product(
        task, variables, d, gradients[0], method=method, damping=0.5, num_steps=5
    )
    problems.assert_trees_close(solve(weighted), solve(repeated))


@pytest.mark.parametrize("method", curvature.INVERSE_METHODS)
def test_parameters_in_low_precision_and_of_integers(method):
    """`(A + damping I)^-1 v` of a quadratic, with a parameter that has no derivative."""
    x = jax.random.normal(jax.random.key(0), (24, 2))
    data = {"inputs": x, "targets": x[:, 0], "index": jnp.arange(24)}
    params = {"w": jnp.ones((2, 1), jnp.bfloat16), "count": jnp.array([3])}
    apply = lambda v, batch, rng, train: ({"logits": batch["inputs"] @ v["params"]["w"]}, v)
    task, variables = tasks.regression(tasks.Model(None, apply)), {"params": params}
    gradient = curvature.mean_gradient(task, variables, data)
    assert gradient["count"] == 0
    np.testing.assert_allclose(gradient["w"], x.T @ (x @ params["w"] - x[:, :1]) / 24, rtol=2e-2)
    solution = curvature.inverse_hessian_vector_product(
        task, variables, data, jax.tree.map(lambda g: g.astype(jnp.bfloat16), gradient),
        method=method, damping=0.5, num_steps=23, scale=2.0, rng=jax.random.key(1),
    )  # fmt: skip
    assert solution["w"].dtype == jnp.bfloat16 and solution["count"] == 0
    if method != "woodfisher":
        matrix = x.T @ x / 24 + 0.5 * np.eye(2)
        expected = np.linalg.solve(matrix, gradient["w"])
        np.testing.assert_allclose(np.asarray(solution["w"], np.float64), expected, rtol=3e-2)


def test_batches_are_of_the_size_asked_for(problem):
    """Which no value shows: seen in the shapes of the computation."""
    task, variables, data = problem
    options = {"batch_size": 7}
    solve = lambda v: curvature.inverse_hessian_vector_product(
        task, variables, data, v, num_steps=1, **options
    )
    product = lambda v: curvature.hessian_vector_product(task, variables, data, v, **options)
    mean = lambda v: curvature.mean_gradient(task, {"params": v}, data, **options)
    for fn in (solve, product, mean):
        seen = problems.shapes(fn, variables["params"])
        assert (7, 10) in seen and (N, 10) not in seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "method must be one of"),
        ({"damping": -1.0}, "damping must be >= 0"),
        ({"num_steps": 0}, "num_steps must be >= 1"),
        ({"scale": 0.0}, "scale must be > 0"),
        ({"method": "woodfisher"}, "rng must be given"),
    ],
)
def test_bad_options_are_named(problem, options, message):
    task, variables, data = problem
    with pytest.raises(ValueError, match=message):
        curvature.inverse_hessian_vector_product(
            task, variables, data, variables["params"], **options
        )


def test_output_sensitivity_is_a_loop_over_examples(digits):
    task, data = problems.mlp(), {k: jnp.asarray(v[:12]) for k, v in digits.items()}
    variables = problems.init(task, digits)
    total = None
    for i in range(12):
        example = {k: v[i : i + 1] for k, v in data.items() if k != "targets"}

        def norm(params, example=example):
            outputs, _ = task.apply({**variables, "params": params}, example, None, False)
            return jnp.sum(outputs["logits"] ** 2)

        size = jax.tree.map(jnp.abs, jax.grad(norm)(variables["params"]))
        total = size if total is None else jax.tree.map(jnp.add, total, size)
    expected = jax.tree.map(lambda t: t / 12, total)
    for batch_size in (5, 12):
        actual = curvature.output_sensitivity(task, variables, data, batch_size=batch_size)
        problems.assert_trees_close(actual, expected)
