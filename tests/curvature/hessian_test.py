import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import curvature

N, DAMPING = 60, 0.1


@pytest.fixture(scope="module")
def problem():
    """Softmax regression on 4x4 digits: a convex loss with 170 parameters."""
    digits = problems.digits(N)
    small = digits["inputs"].reshape(N, 4, 2, 4, 2, 1).mean((2, 4))
    data = {**digits, "inputs": jnp.asarray(small)}
    task = problems.softmax_regression()
    return task, problems.init(task, data), data


def dense_hessian(task, variables, data):
    flat, unravel = ravel_pytree(variables["params"])

    def loss(flat):
        outputs, _ = task.apply({**variables, "params": unravel(flat)}, data, None, False)
        return task.loss(outputs, data).mean()

    return np.asarray(jax.hessian(loss)(flat), np.float64), jax.grad(loss)(flat), unravel


@pytest.mark.parametrize("batch_size", [7, 60, 1000])
def test_products_are_those_of_the_dense_hessian(problem, batch_size):
    task, variables, data = problem
    hessian, gradient, unravel = dense_hessian(*problem)
    vector = np.random.default_rng(0).normal(size=len(hessian))
    product = curvature.hessian_vector_product(
        task, variables, data, unravel(jnp.asarray(vector, jnp.float32)), batch_size=batch_size
    )
    np.testing.assert_allclose(ravel_pytree(product)[0], hessian @ vector, atol=1e-4)
    mean = curvature.mean_gradient(task, variables, data, batch_size=batch_size)
    np.testing.assert_allclose(ravel_pytree(mean)[0], gradient, atol=1e-5)


@pytest.mark.parametrize(("method", "num_steps"), [("cg", 60), ("lissa", 300)])
def test_inverse_products_solve_the_damped_system(problem, method, num_steps):
    task, variables, data = problem
    hessian, gradient, unravel = dense_hessian(*problem)
    expected = np.linalg.solve(hessian + DAMPING * np.eye(len(hessian)), gradient)
    # The series converges where the eigenvalues are below twice its scale.
    scale = 0.6 * (np.linalg.eigvalsh(hessian).max() + DAMPING)
    solution = curvature.inverse_hessian_vector_product(
        task, variables, data, unravel(gradient),
        method=method, damping=DAMPING, num_steps=num_steps, scale=scale,
    )  # fmt: skip
    error = np.linalg.norm(ravel_pytree(solution)[0] - expected) / np.linalg.norm(expected)
    assert error < 1e-3


def test_woodfisher_is_its_recursion(problem):
    """Against the recursion in NumPy, on the same examples."""
    task, variables, data = problem
    _, gradient, unravel = dense_hessian(*problem)
    key, steps = jax.random.key(5), 20
    solution = curvature.inverse_hessian_vector_product(
        task, variables, data, unravel(gradient), method="woodfisher", num_steps=steps, rng=key
    )
    grads = jax.vmap(lambda g: ravel_pytree(g)[0])(
        curvature.per_example_gradients(task, variables, {**data, "weight": jnp.ones(N)})
    )
    rows = np.asarray(jax.random.choice(key, N, (steps + 1,), replace=False))
    k, o = np.asarray(gradient, np.float64), np.asarray(grads[rows[0]], np.float64)
    for row in rows[1:]:
        g = np.asarray(grads[row], np.float64)
        k, o = k - o * (k @ g) / (steps + o @ g), o - o * (o @ g) / (steps + o @ g)
    np.testing.assert_allclose(ravel_pytree(solution)[0], k, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "method must be one of"),
        ({"damping": -1.0}, "damping must be >= 0"),
        ({"num_steps": 0}, "num_steps must be >= 1"),
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
