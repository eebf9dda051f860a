import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearnjax import models, tasks, training

PROMPTS = np.array([[0, 2, 1], [0, 3, 1], [0, 2, 1], [0, 4, 1], [0, 2, 1]])


def apply(variables, batch, rng, train):
    """Unit vectors from the table of each example, and the scale that is learned."""
    unit = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)
    params, index = variables["params"], batch["index"]
    image, text = (unit(params[name][index]) for name in ("image", "text"))
    return {"image": image, "text": text, "scale": jnp.full(len(index), params["scale"])}, variables


TASK = tasks.contrastive(tasks.Model(None, apply))
RNG = np.random.default_rng(0)
PARAMS = {
    "image": jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32),
    "text": jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32),
    "scale": jnp.float32(3.0),
}
BATCH = {"condition": jnp.asarray(PROMPTS), "index": jnp.arange(5)}


@jax.jit
def evaluated(batch, params=PARAMS):
    outputs, _ = TASK.apply({"params": params}, batch, None, False)
    return {"loss": TASK.loss(outputs, batch), **TASK.metrics(outputs, batch)}


def by_hand(rows):
    """Loss, retrieval and alignment of each of the rows, among these, pair by pair."""
    unit = lambda x: x / np.sqrt((x**2).sum(1, keepdims=True))
    image, text = (unit(np.asarray(PARAMS[name], np.float64)) for name in ("image", "text"))
    losses, found = [], []
    for i in rows:
        positives = [j for j in rows if PROMPTS[i].tolist() == PROMPTS[j].tolist()]
        total = 0.0
        for one, other in ((image, text), (text, image)):
            shares = {j: np.exp(3 * one[i] @ other[j]) for j in rows}
            logs = [np.log(shares[j] / sum(shares.values())) for j in positives]
            total -= np.mean(logs) / 2
        losses.append(total)
        found.append(max(rows, key=lambda j: image[i] @ text[j]) in positives)
    return losses, found, [image[i] @ text[i] for i in rows]


def test_every_pair_with_an_equal_caption_is_positive():
    losses, found, cosines = by_hand(range(5))
    said = evaluated(BATCH)
    np.testing.assert_allclose(said["loss"], losses, rtol=1e-5)
    np.testing.assert_array_equal(said["retrieval"], found)
    assert 0 < np.mean(found) < 1
    np.testing.assert_allclose(said["alignment"], cosines, rtol=1e-5)


def test_padding_is_nobodys():
    """Rows of weight 0 change nothing for the others, whoever is repeated in them."""
    alone = evaluated({k: v[:3] for k, v in BATCH.items()})
    padded = evaluated({**BATCH, "weight": jnp.array([1.0, 1, 0.5, 0, 0])})
    for name, values in alone.items():
        np.testing.assert_allclose(padded[name][:3], values, rtol=1e-5)
    np.testing.assert_allclose(alone["loss"], by_hand(range(3))[0], rtol=1e-5)


def test_padding_alone_has_a_gradient_of_zero():
    """Of a batch without anybody, and of no number in it, nothing is learned."""
    batch = {**BATCH, "weight": jnp.zeros(5)}

    def weighted(params):
        outputs, _ = TASK.apply({"params": params}, batch, None, True)
        return jnp.sum(batch["weight"] * TASK.loss(outputs, batch))

    gradient = jax.jit(jax.grad(weighted))(PARAMS)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_permuted_batch_is_permuted():
    order = np.array([3, 0, 4, 2, 1])
    permuted, base = evaluated({k: v[order] for k, v in BATCH.items()}), evaluated(BATCH)
    for name, values in base.items():
        np.testing.assert_allclose(permuted[name], values[order], rtol=1e-5)


def test_the_least_loss_is_that_of_the_captions_numbers():
    """Of a pair that knows everything and is sure: log 3 for what occurs three times."""
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0, 2, 0]]
    sure = {"image": vectors, "text": vectors, "scale": np.float32(100.0)}
    said = evaluated(BATCH, sure)
    np.testing.assert_allclose(said["loss"], np.log([3, 1, 3, 1, 3]), atol=1e-5)
    np.testing.assert_array_equal(said["retrieval"], np.ones(5))


def test_the_gradient_reaches_both_halves_and_the_scale():
    loss = lambda params: evaluated(BATCH, params)["loss"].sum()
    gradient = jax.grad(loss)(PARAMS)
    for name in PARAMS:
        size, direction = 1e-2, np.sign(gradient[name])
        moved = {**PARAMS, name: PARAMS[name] + size * direction}
        back = {**PARAMS, name: PARAMS[name] - size * direction}
        slope = (loss(moved) - loss(back)) / (2 * size)
        np.testing.assert_allclose(slope, np.abs(gradient[name]).sum(), rtol=0.02)
        assert slope > 0


def test_a_small_pair_learns_which_caption_is_whose():
    pair = models.CLIP(
        models.MLP(8, hidden=(16,)),
        models.TextEncoder(6, length=3, width=16, depth=1, num_heads=2),
    )
    task = tasks.contrastive(tasks.from_linen(pair, ("inputs", "condition")))
    classes = np.arange(48) % 4
    images = np.random.default_rng(0).normal(size=(4, 4, 4, 1))[classes]
    noise = np.random.default_rng(1).normal(size=images.shape)
    data = {
        "inputs": jnp.asarray(images + 0.3 * noise, jnp.float32),
        "condition": jnp.stack([jnp.array([0, 2 + c, 1]) for c in classes]),
        "index": jnp.arange(48),
        "targets": jnp.asarray(classes),
    }
    fit = functools.partial(training.train, task, optax.adam(3e-3), data, jnp.arange(48))
    state, history = jax.jit(lambda rng: fit(rng, num_epochs=20, batch_size=16))(jax.random.key(0))
    # Sixteen are about four of each: the loss falls from log 16 to about log 4.
    assert history["loss"][0] > 2.4 and history["loss"][-1] < 1.7
    assert history["retrieval"][-1] > 0.9


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="the model needs the column 'scale', a batch has"):
        TASK.loss({"image": jnp.ones((2, 3)), "text": jnp.ones((2, 3))}, BATCH)
