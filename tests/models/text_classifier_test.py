import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import models

TOKENS = jnp.array([[3, 5, 2, 0, 0], [4, 4, 1, 6, 2], [0, 0, 0, 0, 0]])


def made(**options):
    model = models.TextClassifier(3, 7, width=8, hidden=6, length=5, num_heads=2, **options)
    return model, model.init(jax.random.key(0), TOKENS)


def test_it_is_a_mean_of_embeddings_and_a_network():
    model, variables = made()
    params = variables["params"]
    table = np.asarray(params["words"]["embedding"])
    means = np.stack([table[[3, 5, 2]].mean(0), table[[4, 4, 1, 6, 2]].mean(0), np.zeros(8)])
    dense = lambda x, own: x @ np.asarray(own["kernel"]) + np.asarray(own["bias"])
    features = np.maximum(dense(means, params["Dense_0"]), 0)
    outputs = model.apply(variables, TOKENS)
    np.testing.assert_allclose(outputs["features"], features, atol=1e-6)
    np.testing.assert_allclose(outputs["logits"], dense(features, params["Dense_1"]), atol=1e-6)


def test_embeddings_and_positions_start_near_nought():
    """Of 4,096 normal numbers the deviation is known to about a hundredth."""
    model = models.TextClassifier(2, 256, width=16, depth=1, hidden=2, length=256)
    params = model.init(jax.random.key(0), TOKENS)["params"]
    for table in (params["words"]["embedding"], params["positions"]):
        np.testing.assert_allclose(np.std(table), 0.1, rtol=0.05)


def test_layers_see_the_order_and_no_padding():
    model, variables = made(depth=2)
    logits = lambda tokens: np.asarray(model.apply(variables, jnp.asarray(tokens))["logits"])
    whole = logits(TOKENS)
    np.testing.assert_allclose(logits(TOKENS[:1, :3]), whole[:1], atol=1e-5)
    assert np.abs(logits([[5, 3, 2, 0, 0]]) - whole[:1]).max() > 1e-4
    plain, own = made()
    swapped = plain.apply(own, jnp.array([[5, 3, 2, 0, 0]]))["logits"]
    np.testing.assert_allclose(swapped, plain.apply(own, TOKENS)["logits"][:1], atol=1e-6)
    # Each word is attended by others: a change of one is seen in all.
    assert np.isfinite(whole).all()
    with pytest.raises(ValueError, match=r"tokens must be \[B, T\], T at most 5, got \[1, 6\]"):
        logits([[1] * 6])
    with pytest.raises(ValueError, match=r"tokens must be \[B, T\]"):
        plain.apply(own, TOKENS[0])


def test_few_digits_inside_and_float32_outside():
    model, variables = made(depth=1, dtype=jnp.bfloat16)
    outputs = model.apply(variables, TOKENS)
    assert outputs["logits"].dtype == outputs["features"].dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
