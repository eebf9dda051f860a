import chex
import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from unlearnjax.models import layers


@hypothesis.given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["SAME", "VALID"]),
)
@hypothesis.settings(deadline=None, max_examples=25)
def test_patches_and_native_convolution_agree_with_their_gradients(size, kernel, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    k = jnp.asarray(rng.normal(size=(*kernel, 3, 5)), jnp.float32)

    def value(conv, x, k):
        out = conv(x, k, strides, padding)
        return jnp.sum(jnp.sin(out)), out

    results = [
        jax.value_and_grad(lambda x, k, c=c: value(c, x, k), (0, 1), has_aux=True)(x, k)
        for c in (layers.conv_patches, layers.conv_native)
    ]
    chex.assert_trees_all_close(*results, rtol=1e-3, atol=1e-3)


def test_conv_layer_has_the_parameters_and_outputs_of_flax():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    ours = layers.Conv(5, strides=(2, 2))
    theirs = nn.Conv(5, (3, 3), strides=(2, 2))
    variables = ours.init(jax.random.key(1), x)
    chex.assert_trees_all_equal_shapes(variables, theirs.init(jax.random.key(1), x))
    np.testing.assert_allclose(
        ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-4, atol=1e-5
    )


def test_cpu_program_holds_no_native_convolution():
    """The trap this layer exists for."""
    x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    text = jax.jit(layers.conv).lower(x, k).as_text()
    assert "stablehlo.convolution" not in text
    native = jax.jit(layers.conv_native).lower(x, k).as_text()
    assert "stablehlo.convolution" in native


@pytest.mark.parametrize("shape", [(8, 8), (7, 9)])
def test_max_pool_is_flax_max_pool(shape):
    x = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    np.testing.assert_array_equal(layers.max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))
