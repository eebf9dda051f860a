import functools

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
@hypothesis.settings(deadline=None, max_examples=6)  # compiled for each
def test_the_convolutions_agree_with_their_gradients(size, kernel, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    k = jnp.asarray(rng.normal(size=(*kernel, 3, 5)), jnp.float32)

    def value(conv, x, k):
        out = conv(x, k, strides, padding)
        return jnp.sum(jnp.sin(out)), out

    results = [
        jax.jit(jax.value_and_grad(functools.partial(value, c), (0, 1), has_aux=True))(x, k)
        for c in (layers.conv_native, layers.conv_patches, layers.conv_cpu)
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


def derivatives(conv):
    """Second ones, in every combination of the two modes; of a batch, and of one example each."""
    x = jax.random.normal(jax.random.key(0), (4, 6, 5, 2))
    k, direction = jax.random.normal(jax.random.key(1), (2, 3, 2, 2, 3))
    loss = lambda k, x: jnp.sum(jnp.sin(conv(x, k, (2, 1), "SAME")))
    slope = jax.grad(loss)
    along = lambda k: jnp.vdot(slope(k, x), direction)
    forward = jax.jvp(lambda k: jax.jvp(lambda k: loss(k, x), (k,), (direction,))[1], (k,), (k,))
    return {
        "reverse, reverse": jax.grad(along)(k),
        "reverse, forward": jax.jvp(lambda k: slope(k, x), (k,), (direction,))[1],
        "forward, forward": forward[1],
        "per example": jax.vmap(slope, (None, 0))(k, x[:, None]),
        "of the inputs": jax.jvp(lambda x: jax.grad(loss, 1)(k, x), (x,), (x,))[1],
    }


def test_second_derivatives_agree():
    results = map(derivatives, (layers.conv_native, layers.conv_patches, layers.conv_cpu))
    first, *others = results
    for other in others:
        chex.assert_trees_all_close(other, first, rtol=1e-4, atol=1e-4)


def test_convolutions_inside_a_loop_are_in_the_order_that_the_cpu_has_kernels_for():
    """The trap these layers exist for."""
    x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def train(conv):
        step = lambda k, _: (k - jax.grad(lambda k: jnp.sum(conv(conv(x, k), k[..., :3, :])))(k), 0)
        looped = jax.jit(lambda k: jax.lax.scan(step, k, length=2)[0])
        text = looped.lower(k[..., :3]).compile().as_text()
        return [line for line in text.splitlines() if " convolution(" in line]

    order = "dim_labels=b01f_01io->b01f"
    assert any(order not in line for line in train(layers.conv_native))
    lines = train(layers.conv)
    assert lines and all(order in line for line in lines)


@pytest.mark.parametrize("shape", [(8, 8), (7, 9)])
def test_max_pool_is_flax_max_pool(shape):
    x = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    np.testing.assert_array_equal(layers.max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))


def test_by_patches_holds_no_convolution_and_is_over_afterwards():
    x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    text = lambda: jax.jit(lambda x, k: layers.conv(x, k)).lower(x, k).as_text()
    with layers.by_patches():
        assert "stablehlo.convolution" not in text()
    assert "stablehlo.convolution" in text()


@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (None, 0), (1, 3)])
@pytest.mark.parametrize("of", [(0,), (1,), (0, 1)])
def test_derivatives_over_models_and_examples_keep_their_axes(in_axes, of):
    """Compiled: there the branches for each platform are batched by themselves."""
    shapes = [(4, 4, 4, 2), (3, 3, 2, 5)]
    for i, axis in enumerate(in_axes):
        if axis is not None:
            shapes[i] = (*shapes[i][:axis], 3, *shapes[i][axis:])
    args = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]

    @functools.partial(jax.jit, static_argnums=0)
    def both(conv, *args):
        def call(*own):
            given = list(args)
            for place, value in zip(of, own, strict=True):
                given[place] = value
            return jax.vmap(conv, in_axes)(*given)

        own = [args[place] for place in of]
        value, pull = jax.vjp(call, *own)
        return jax.jvp(call, own, own), value, pull(value)

    expected = both(lambda x, k: layers.conv_native(x, k), *args)
    actual = both(lambda x, k: layers.conv(x, k), *args)
    chex.assert_trees_all_equal_shapes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=1e-3, atol=1e-3)
