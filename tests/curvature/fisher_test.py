import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import strategies as st

from tests import problems
from unlearnjax import curvature, models, tasks, training

N = 24
SMALL_MODELS = {
    "mlp": models.MLP(10, hidden=(12,)),
    "convnet": models.ConvNet(10, channels=(4, 6), hidden=8),
    "batch_norm": models.ResNet(10, stage_sizes=(1, 1), width=4),
    "group_norm": models.ResNet(10, stage_sizes=(1, 1), width=4, norm="group"),
    "vit": models.ViT(10, width=12, depth=1, num_heads=3),
}


def data_of(digits, n=N):
    return {k: jnp.asarray(v[:n]) for k, v in digits.items()}


def trained(task, data, seed=0):
    """Not at initialisation, where residual branches and biases are zero."""
    import optax

    @jax.jit
    def run(rng):
        return training.train(
            task, optax.adam(1e-2), data, jnp.arange(N), rng, num_epochs=3, batch_size=8
        )

    return run(jax.random.key(seed))[0].variables


def brute_force(task, variables, data, targets=None):
    """One gradient per example, in a Python loop."""
    total = None

    @jax.jit
    def gradient(params, example):
        def loss(params):
            outputs, _ = task.apply({**variables, "params": params}, example, None, False)
            return task.loss(outputs, example)[0]

        return jax.grad(loss)(params)

    for i in range(len(data["targets"])):
        example = {k: v[i : i + 1] for k, v in data.items()}
        if targets is not None:
            example["targets"] = targets[i : i + 1]
        squares = jax.tree.map(jnp.square, gradient(variables["params"], example))
        total = squares if total is None else jax.tree.map(jnp.add, total, squares)
    return jax.tree.map(lambda t: t / len(data["targets"]), total)


@pytest.mark.parametrize("method", curvature.fisher.METHODS)
@pytest.mark.parametrize("name", SMALL_MODELS)
def test_fisher_is_the_mean_squared_gradient_of_single_examples(digits, name, method):
    task, data = problems.linen(SMALL_MODELS[name]), data_of(digits)
    variables = trained(task, data)
    fisher = jax.jit(
        lambda v, d: curvature.fisher_diagonal(task, v, d, method=method, batch_size=10)
    )
    problems.assert_trees_close(
        fisher(variables, data), brute_force(task, variables, data), rtol=1e-5
    )


def test_fisher_of_softmax_regression_is_its_closed_form(digits):
    """d loss / d W = x (p - y)^T, so F = mean (x^2) ((p - y)^2)^T; in float64 NumPy."""
    task, data = problems.softmax_regression(), data_of(digits, 500)
    variables = trained(task, data)
    dense = jax.tree.map(lambda p: np.asarray(p, np.float64), variables["params"]["Dense_0"])
    x = np.asarray(data["inputs"], np.float64).reshape(500, -1)
    logits = x @ dense["kernel"] + dense["bias"]
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    delta = (probs - np.eye(10)[np.asarray(data["targets"])]) ** 2
    expected = {"Dense_0": {"kernel": (x**2).T @ delta / 500, "bias": delta.mean(0)}}
    for method in curvature.fisher.METHODS:
        fisher = curvature.fisher_diagonal(task, variables, data, method=method)
        problems.assert_trees_close(dict(fisher), expected)
        # Relative to each entry too, where it is not itself rounding error.
        np.testing.assert_allclose(
            fisher["Dense_0"]["kernel"], expected["Dense_0"]["kernel"], rtol=1e-4, atol=1e-9
        )


def test_expected_sampled_fisher_is_the_fisher_of_softmax_regression(digits):
    """Labels from the model: in expectation x^2 p (1 - p). Standard error over 400 draws: 5 %."""
    task, data = problems.softmax_regression(), data_of(digits, 20)
    variables = trained(task, data)
    logits = np.asarray(task.apply(variables, data, None, False)[0]["logits"], np.float64)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = (probs * (1 - probs)).mean(0)
    draws = jax.vmap(
        lambda key: curvature.fisher_diagonal(task, variables, data, labels="model", rng=key)
    )(jax.random.split(jax.random.key(0), 400))["Dense_0"]["bias"]
    error = np.asarray(draws).std(0) / 20
    np.testing.assert_array_less(np.abs(draws.mean(0) - expected), 4 * error + 1e-6)


def test_sampled_labels_follow_the_example_not_the_batch(digits):
    task, data = problems.mlp(), data_of(digits)
    variables = problems.init(task, data)
    key = jax.random.key(3)
    targets = curvature.sample_targets(key, task, variables, data)
    expected = brute_force(task, variables, data, targets)
    for method in curvature.fisher.METHODS:
        for batch_size in (5, N):
            actual = curvature.fisher_diagonal(
                task,
                variables,
                data,
                labels="model",
                rng=key,
                method=method,
                batch_size=batch_size,
            )
            problems.assert_trees_close(actual, expected)


@hypothesis.given(batch_size=st.integers(1, 40), max_bytes=st.sampled_from([1, 5_000, 10**9]))
@hypothesis.settings(deadline=None, max_examples=5)
def test_fisher_does_not_depend_on_batch_size_or_chunks(batch_size, max_bytes):
    data = data_of(problems.digits())
    task = problems.linen(SMALL_MODELS["convnet"])
    variables = problems.init(task, data)
    expected = curvature.fisher_diagonal(task, variables, data, method="vmap", batch_size=N)
    actual = curvature.fisher_diagonal(
        task, variables, data, batch_size=batch_size, max_bytes=max_bytes
    )
    problems.assert_trees_close(actual, expected)


@pytest.mark.parametrize("method", curvature.fisher.METHODS)
def test_weights_weigh_and_zero_weight_removes(digits, method):
    task, data = problems.mlp(), data_of(digits)
    variables = problems.init(task, data)
    weighted = {**data, "weight": (jnp.arange(N) < 10).astype(jnp.float32)}
    kept = {k: v[:10] for k, v in data.items()}
    problems.assert_trees_close(
        curvature.fisher_diagonal(task, variables, weighted, method=method, batch_size=7),
        curvature.fisher_diagonal(task, variables, kept, method=method),
    )


def test_fisher_over_shards_weighted_by_their_sizes_is_the_fisher_of_the_union(digits):
    task, data = problems.mlp(), data_of(digits)
    variables = problems.init(task, data)
    shards = [jax.tree.map(lambda x, s=s: x[s], data) for s in (slice(0, 7), slice(7, N))]
    parts = [curvature.fisher_diagonal(task, variables, shard) for shard in shards]
    union = jax.tree.map(lambda a, b: (7 * a + (N - 7) * b) / N, *parts)
    problems.assert_trees_close(union, curvature.fisher_diagonal(task, variables, data))


def test_batch_variant_is_the_square_of_batch_means_and_not_the_fisher(digits):
    task, data = problems.softmax_regression(), data_of(digits, 20)
    variables = problems.init(task, data)

    def mean_gradient(batch):
        def loss(params):
            outputs, _ = task.apply({**variables, "params": params}, batch, None, False)
            return task.loss(outputs, batch).mean()

        return jax.grad(loss)(variables["params"])

    batches = [{k: v[i : i + 8] for k, v in data.items()} for i in (0, 8, 16)]
    squares = [jax.tree.map(jnp.square, mean_gradient(b)) for b in batches]
    expected = jax.tree.map(lambda *s: sum(s) / 3, *squares)
    actual = curvature.batch_gradient_squared(task, variables, data, batch_size=8)
    problems.assert_trees_close(actual, expected)
    # With one example a batch both are the same thing.
    problems.assert_trees_close(
        curvature.batch_gradient_squared(task, variables, data, batch_size=1),
        curvature.fisher_diagonal(task, variables, data),
    )


class SharedLayers(nn.Module):
    """Parameters used twice, a dense layer over positions, and a parameter of no layer."""

    @nn.compact
    def __call__(self, inputs, train=False):
        twice = nn.Dense(8)
        x = nn.relu(nn.Dense(8)(inputs[..., 0]))  # [B, 8, 8]: weights shared over rows
        x = nn.relu(twice(nn.relu(twice(x)))).mean(1)
        scale = self.param("scale", nn.initializers.normal(1.0), (8,))
        return nn.Dense(10)(x * scale)


class Rematerialised(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.remat(nn.Dense)(8)(inputs.reshape(inputs.shape[0], -1))
        return nn.Dense(10)(nn.relu(x))


@pytest.mark.parametrize("module", [SharedLayers(), Rematerialised()], ids=["shared", "remat"])
def test_layers_without_a_rule_fall_back_to_the_definition(digits, module):
    task, data = problems.linen(module), data_of(digits)
    variables = problems.init(task, data)
    problems.assert_trees_close(
        curvature.fisher_diagonal(task, variables, data, max_bytes=3000),
        brute_force(task, variables, data),
    )


def test_per_example_gradients_average_to_the_batch_gradient(digits):
    task, data = problems.mlp(), data_of(digits)
    variables = problems.init(task, data)

    def loss(params):
        outputs, _ = task.apply({**variables, "params": params}, data, None, False)
        return task.loss(outputs, data).mean()

    mean = jax.tree.map(lambda g: g.mean(0), curvature.per_example_gradients(task, variables, data))
    problems.assert_trees_close(mean, jax.grad(loss)(variables["params"]))


def test_batches_and_gradients_are_of_the_sizes_asked_for(digits):
    """Which no value shows: seen in the shapes of the computation."""
    task, data = problems.mlp((12,)), data_of(digits)
    variables = problems.init(task, data)
    fisher = lambda **options: problems.shapes(
        lambda v: curvature.fisher_diagonal(task, v, data, **options), variables
    )
    sensitivity = problems.shapes(
        lambda v: curvature.output_sensitivity(task, v, data, batch_size=5), variables
    )
    for seen in (fisher(method="vmap", batch_size=5), sensitivity):
        assert (5, 64, 12) in seen
    seen = fisher(batch_size=5)
    assert (5, 1, 12) in seen and (5, 64, 12) not in seen


def test_integers_have_no_importance_and_stop_nothing():
    x = jax.random.normal(jax.random.key(0), (N, 4))
    data = {"inputs": x, "targets": jnp.arange(N) % 3, "index": jnp.arange(N)}
    params = {"kernel": jnp.ones((4, 3)), "count": jnp.arange(2)}
    apply = lambda v, batch, *_: ({"logits": batch["inputs"] @ v["params"]["kernel"]}, v)
    task, variables = tasks.classification(tasks.Model(None, apply)), {"params": params}
    delta = (1 / 3 - np.eye(3)[np.arange(N) % 3]) ** 2
    expected = {"kernel": (np.asarray(x) ** 2).T @ delta / N, "count": np.zeros(2)}
    for method in curvature.fisher.METHODS:
        fisher = curvature.fisher_diagonal(task, variables, data, method=method)
        problems.assert_trees_close(fisher, expected)
    squared = curvature.batch_gradient_squared(task, variables, data, batch_size=1)
    problems.assert_trees_close(squared, expected)
    size = curvature.output_sensitivity(task, variables, data)
    norm = 2 * np.abs(np.asarray(x) * np.asarray(x).sum(1, keepdims=True)).mean(0)
    expected = {"kernel": np.tile(norm[:, None], (1, 3)), "count": np.zeros(2)}
    problems.assert_trees_close(size, expected)


def test_sensitivity_of_a_language_model_is_that_of_its_answer_alone():
    """`d mean_t |x_t W|^2 / dW = mean_t 2 x_t' (x_t W)`."""
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=size).astype(np.float32) for size in ((3, 4, 2), (2, 12)))
    answer = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
    apply = lambda v, batch, *_: ({"logits": batch["inputs"] @ v["params"]}, v)
    task = tasks.classification(tasks.Model(None, apply))
    data = {"inputs": x, "answer": answer, "index": np.arange(3)}
    found = curvature.output_sensitivity(task, {"params": jnp.asarray(w)}, data, batch_size=2)
    said = [row[told > 0] for row, told in zip(x, answer, strict=True)]
    expected = np.mean([np.abs(2 * own.T @ (own @ w) / len(own)) for own in said], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "true"}, r"labels must be one of \('data', 'model'\), got 'true'"),
        ({"method": "fast"}, r"method must be one of \('layers', 'vmap'\), got 'fast'"),
        ({"labels": "model"}, "rng must be given for labels='model'"),
    ],
)
def test_bad_options_are_named(digits, options, message):
    with pytest.raises(ValueError, match=message):
        curvature.fisher_diagonal(problems.mlp(), {}, data_of(digits), **options)
