"""Against dense matrices of per-example gradients, and one's own Kronecker products."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import curvature, models, tasks, training
from unlearnjax.models import layers

N, DAMPING = 96, 0.05


class Small(nn.Module):
    """A convolution, a norm (which has no block), a dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(layers.Conv(2, (3, 3))(x))
        x = nn.LayerNorm()(x.mean((1, 2)))
        return nn.Dense(10)(x)


class Misleading(nn.Module):
    """A dense layer over rows, time-major and as many as a batch; one that is used twice."""

    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(-1, 4, 4).swapaxes(0, 1)
        x = nn.tanh(nn.Dense(4)(x)).swapaxes(0, 1).mean(1)
        twice = nn.Dense(4, name="twice")
        return nn.Dense(10)(nn.tanh(twice(nn.tanh(twice(x)))))


MODELS = {
    "mlp": models.MLP(num_classes=10, hidden=(6,)),
    "convnet": Small(),
    "misleading": Misleading(),
}


@pytest.fixture(scope="module", params=MODELS)
def problem(request):
    digits = problems.digits(N)
    inputs = digits["inputs"].reshape(N, 4, 2, 4, 2, 1).mean((2, 4))
    data = {**{k: jnp.asarray(v) for k, v in digits.items()}, "inputs": jnp.asarray(inputs)}
    task = problems.linen(MODELS[request.param])
    variables = problems.init(task, data)
    return task, variables, data


def sampled(task, variables, data, key):
    """The per-example gradients with the labels that the model draws, `[N, P]`."""
    data = {**data, "weight": jnp.ones(N)}
    data["targets"] = curvature.sample_targets(key, task, variables, data)
    grads = curvature.per_example_gradients(task, variables, data)
    return np.asarray(jax.vmap(lambda g: ravel_pytree(g)[0])(grads), np.float64)


def as_matrix(name, gradient):
    """A layer's gradient with the bias as the last input."""
    layer = gradient[name]
    kernel = np.asarray(layer["kernel"])
    rows = [kernel.reshape(-1, kernel.shape[-1])]
    return np.concatenate(rows + ([np.asarray(layer["bias"])[None]] if "bias" in layer else []))


def test_eigenvalues_are_the_mean_squares_in_the_bases(problem):
    task, variables, data = problem
    key = jax.random.key(1)
    factors = curvature.ekfac(task, variables, data, key, batch_size=40)
    grads = sampled(task, variables, data, key)
    _, unravel = ravel_pytree(variables["params"])
    assert set(factors.blocks) == {
        name for name, layer in variables["params"].items() if "kernel" in layer and name != "twice"
    }
    for name, block in factors.blocks.items():
        rotated = [
            np.asarray(block.input_basis).T
            @ as_matrix(name, unravel(jnp.asarray(g, jnp.float32)))
            @ np.asarray(block.output_basis)
            for g in grads
        ]
        expected = np.mean(np.square(rotated), axis=0)
        np.testing.assert_allclose(block.eigenvalues, expected, rtol=1e-3, atol=1e-7)
        for basis in block[:2]:
            np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-5)


def test_the_solution_inverts_the_matrix_that_the_factors_stand_for(problem):
    task, variables, data = problem
    factors = curvature.ekfac(task, variables, data, jax.random.key(1))
    vector = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape), variables["params"]
    )
    solved = jax.jit(lambda f, v: curvature.ekfac_solve(f, v, damping=DAMPING))(factors, vector)
    for name, block in factors.blocks.items():
        basis = np.kron(block.input_basis, block.output_basis).astype(np.float64)
        matrix = basis @ np.diag(np.ravel(block.eigenvalues)) @ basis.T
        matrix += DAMPING * np.eye(len(matrix))
        back = matrix @ as_matrix(name, solved).ravel()
        np.testing.assert_allclose(back, as_matrix(name, vector).ravel(), atol=1e-4)
    if "LayerNorm_0" in vector:
        expected = jax.tree.map(lambda v, d: v / (d + DAMPING), vector, factors.diagonal)
        problems.assert_trees_close(solved["LayerNorm_0"], expected["LayerNorm_0"])


def test_it_is_nearer_to_the_fisher_matrix_than_k_fac_and_the_diagonal():
    """George et al., theorem 2: in Frobenius norm, here of the first layer of a trained model."""
    digits = {k: jnp.asarray(v) for k, v in problems.digits(N).items()}
    task = problems.mlp((6,))
    options = {"num_epochs": 10, "batch_size": 32}
    state, _ = training.train(
        task, optax.adam(1e-2), digits, jnp.arange(N), jax.random.key(0), **options
    )
    variables, key = state.variables, jax.random.key(3)
    _, unravel = ravel_pytree(variables["params"])
    grads = [
        as_matrix("Dense_0", unravel(jnp.asarray(g, jnp.float32)))
        for g in sampled(task, variables, digits, key)
    ]
    flat = np.reshape(grads, (N, -1)).astype(np.float64)
    dense = flat.T @ flat / N
    inputs = np.concatenate([digits["inputs"].reshape(N, -1), np.ones((N, 1))], axis=1)
    cotangents = np.array([g[-1] for g in grads])  # those of the bias
    k_fac = np.kron(inputs.T @ inputs / N, cotangents.T @ cotangents / N)
    block = curvature.ekfac(task, variables, digits, key).blocks["Dense_0"]
    for basis, rows in ((block.input_basis, inputs), (block.output_basis, cotangents)):
        rotated = basis.T @ rows.T @ rows @ basis / N  # diagonal in the basis of its eigenvectors
        np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-4)
    basis = np.kron(block.input_basis, block.output_basis)
    ours = basis @ np.diag(np.ravel(block.eigenvalues)) @ basis.T
    error = lambda matrix: np.linalg.norm(matrix - dense)
    assert error(ours) < error(k_fac)
    assert error(ours) < error(np.diag(np.diag(dense)))


def test_types_and_parameters_without_a_group_or_a_gradient():
    """The layer is the whole model, of bfloat16, next to a number that is not learned."""
    x = jax.random.normal(jax.random.key(1), (N, 3))
    data = {"inputs": x, "targets": jnp.zeros(N), "index": jnp.arange(N)}
    params = {"kernel": jnp.ones((3, 2), jnp.bfloat16), "bias": jnp.zeros(2, jnp.bfloat16)}
    params["count"] = jnp.array(2)

    def apply(variables, batch, rng, train):
        own = {name: variables["params"][name] for name in ("kernel", "bias")}
        logits = nn.Dense(2).apply({"params": own}, batch["inputs"])
        return {"logits": logits * variables["params"]["count"]}, variables

    task = tasks.classification(tasks.Model(None, apply))
    factors = curvature.ekfac(task, {"params": params}, data, jax.random.key(0))
    assert list(factors.blocks) == [""] and factors.diagonal["count"] == 0
    solved = curvature.ekfac_solve(factors, params, damping=1.0)
    assert jax.tree.map(lambda x: x.dtype, solved) == jax.tree.map(lambda x: x.dtype, params)
    assert solved["count"] == params["count"]
    block = factors.blocks[""]
    basis = np.kron(block.input_basis, block.output_basis)
    matrix = basis @ np.diag(np.ravel(block.eigenvalues)) @ basis.T + np.eye(8)
    expected = np.linalg.solve(matrix, [1, 1, 1, 1, 1, 1, 0, 0])
    actual = np.concatenate([np.ravel(solved["kernel"]), solved["bias"]]).astype(np.float64)
    np.testing.assert_allclose(actual, expected, atol=1e-2)  # bfloat16 has three digits


@pytest.mark.parametrize("names", [("w", "b"), ("kernel", "b"), ("w", "bias"), ("kernel", "bias")])
def test_a_layer_whose_parameters_are_elsewhere_has_the_diagonal(names):
    """Also where it has no bias, and a parameter beside it is called so."""
    x = jax.random.normal(jax.random.key(1), (N, 3))
    data = {"inputs": x, "targets": jnp.zeros(N), "index": jnp.arange(N)}
    params = dict(zip(names, (jnp.ones((3, 2)), jnp.zeros(2)), strict=True))

    def apply(variables, batch, rng, train):
        kernel, bias = (variables["params"][name] for name in names)
        layer = nn.Dense(2, use_bias=False)
        return {"logits": layer.apply({"params": {"kernel": kernel}}, batch["inputs"]) + bias}, None

    task = tasks.classification(tasks.Model(None, apply))
    factors = curvature.ekfac(task, {"params": params}, data, jax.random.key(0))
    assert list(factors.blocks) == ([""] if names == ("kernel", "b") else [])
    solved = curvature.ekfac_solve(factors, params, damping=1.0)
    if not factors.blocks:
        expected = jax.tree.map(lambda p, d: p / (d + 1), params, factors.diagonal)
        problems.assert_trees_close(solved, expected)


def test_batches_are_of_the_size_asked_for(problem):
    """Which no value shows: seen in the shapes of the computation."""
    task, variables, data = problem
    key = jax.random.key(1)
    factor = lambda v: curvature.ekfac(task, v, data, key, batch_size=7)
    seen = problems.shapes(factor, variables)
    assert (7, 10) in seen and (N, 10) not in seen


def test_damping_is_to_be_positive(problem):
    task, variables, data = problem
    factors = curvature.ekfac(task, variables, data, jax.random.key(1))
    with pytest.raises(ValueError, match="damping must be > 0"):
        curvature.ekfac_solve(factors, variables["params"], damping=0.0)
