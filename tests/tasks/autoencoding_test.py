import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import audit, curvature, models, tasks, training, unlearning
from unlearnjax.training import ensembles, init_variables
from unlearnjax.types import Request


def test_evidence_bound_by_hand(rng):
    task = tasks.autoencoding(tasks.from_linen(models.VAE(2), rng_names=("sample",)))
    mean, log_variance = rng.normal(size=(2, 5, 2))
    x, rebuilt = rng.normal(size=(2, 5, 3))
    outputs = {"reconstruction": rebuilt, "mean": mean, "log_variance": log_variance}
    divergence = [
        sum(-0.5 * lv - 0.5 + 0.5 * (np.exp(lv) + m**2) for m, lv in zip(ms, lvs, strict=True))
        for ms, lvs in zip(mean, log_variance, strict=True)
    ]
    expected = 0.5 * ((x - rebuilt) ** 2).sum(1) + np.array(divergence)
    np.testing.assert_allclose(task.loss(outputs, {"inputs": x}), expected, rtol=1e-4)
    error = task.metrics(outputs, {"inputs": x})["squared_error"]
    np.testing.assert_allclose(error, [np.dot(d, d) / 3 for d in x - rebuilt], rtol=1e-5)


def test_autoencoders_draw_latents_while_training_only(digits):
    task = tasks.autoencoding(tasks.from_linen(models.VAE(2), rng_names=("sample",)))
    batch = {"inputs": jnp.asarray(digits["inputs"][:6].reshape(6, -1))}
    variables = task.init(jax.random.key(0), batch)
    first, second = (
        task.apply(variables, batch, jax.random.key(i), True)[0]["reconstruction"] for i in (1, 2)
    )
    assert not np.allclose(first, second)
    calm = [task.apply(variables, batch, None, False)[0]["reconstruction"] for _ in range(2)]
    np.testing.assert_array_equal(*calm)


@pytest.fixture(scope="module")
def drawing(digits):
    """A VAE whose latents are drawn with the example, its variables and data."""
    module = models.VAE(2, hidden=8)
    task = tasks.autoencoding(tasks.from_linen(module, ("inputs", "noise")), latent=2, num_draws=3)
    rows = {"inputs": digits["inputs"][:12].reshape(12, -1), "index": digits["index"][:12]}
    data = jax.tree.map(jnp.asarray, rows)
    return module, task, init_variables(task, data, jax.random.key(0)), data


def test_evaluation_is_the_mean_bound_over_drawn_latents(drawing):
    """The same noise by hand, through the module itself."""
    module, task, variables, data = drawing
    outputs, _ = tasks.expected(task).apply(variables, data, None, False)
    assert outputs["reconstruction"].shape == (12, 3, 64)
    losses = []
    for k in range(3):
        keys = [
            jax.random.split(jax.random.fold_in(jax.random.key(0), i), 3)[k] for i in data["index"]
        ]
        noise = jnp.stack([jax.random.normal(key, (2,)) for key in keys])
        own = module.apply(variables, data["inputs"], noise)
        np.testing.assert_allclose(
            outputs["reconstruction"][:, k], own["reconstruction"], rtol=1e-4
        )
        losses.append(task.loss(own, data))
    actual = training.evaluate(task, variables, data)["loss"]
    np.testing.assert_allclose(actual, np.mean(losses, axis=0), rtol=1e-5)


def test_predictions_are_compared_by_half_their_squared_distance(drawing):
    module, task, variables, data = drawing
    batch = tasks.drawn(task, data)
    halved = jax.tree.map(lambda x: x / 2, variables)
    own, other = (module.apply(v, data["inputs"], batch["noise"]) for v in (variables, halved))
    expected = ((own["reconstruction"] - other["reconstruction"]) ** 2).sum(1) / 2
    np.testing.assert_allclose(task.divergence(own, other, batch), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="temperature must be 1 where means are predicted, got 2"):
        task.divergence(own, other, batch, 2.0)


@pytest.mark.slow
def test_what_asks_for_a_task_alone_runs_on_it(drawing):
    """Training, a Fisher diagonal, SSD, relearning, KLoM and membership inference."""
    _, task, variables, data = drawing
    fisher = curvature.fisher_diagonal(task, variables, data, batch_size=5)
    gradients = curvature.per_example_gradients(task, variables, data)
    expected = jax.tree.map(lambda g: (g**2).mean(0), gradients)
    problems.assert_trees_close(fisher, expected, rtol=1e-4)

    forget, retain = ({k: v[s] for k, v in data.items()} for s in (slice(4), slice(4, 12)))
    tx = optax.adam(1e-2)
    method = unlearning.ssd(alpha=2.0)
    start, memory = method.init(jax.random.key(0), task, variables, data)
    dampened, _ = method.update(jax.random.key(0), task, start, memory, Request(forget, retain))
    before, after = (training.evaluate(task, v, data)["loss"] for v in (variables, dampened))
    assert float(after[:4].mean()) != float(before[:4].mean())
    steps = audit.relearn_time(
        task, dampened, forget, float(before[:4].mean()) - 5.0, tx, jax.random.key(1)
    )
    assert 0 < int(steps) < 200
    attack = audit.membership_inference(np.asarray(before[:4]), np.asarray(before[4:]))
    assert 0 <= attack["accuracy"] <= 1

    rngs = jax.random.split(jax.random.key(2), 4)
    subsets = jnp.tile(jnp.arange(12), (4, 1))
    keep = lambda variables, data: training.evaluate(task, variables, data)["loss"]
    fit = lambda rngs: ensembles.train_ensemble(
        task, tx, data, subsets, rngs, keep, num_epochs=1, batch_size=6
    )
    one, two = fit(rngs), fit(rngs)
    np.testing.assert_array_equal(one, two)
    assert audit.klom(np.asarray(one), np.asarray(two)).max() == 0
