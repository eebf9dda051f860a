"""Attacks at the edges of their ball and of their bounds, worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import tasks, training

KEY = jax.random.key(0)


def attacked(loss, inputs, **options):
    """Where an attack of that loss of the inputs `[B, D]` ends."""
    apply = lambda variables, batch, *_: ({"logits": batch["inputs"]}, variables)
    task = tasks.classification(tasks.Model(lambda *_: {}, apply))
    attack = training.pgd(task._replace(loss=lambda _, batch: loss(batch["inputs"])), **options)
    return attack(KEY, {}, {"inputs": inputs, "index": jnp.arange(len(inputs))})["inputs"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_what_the_bounds_cut_off_does_not_come_back(norm, side):
    """A step to the bound, past the best input, and one from there to the other side."""
    loss = lambda x: -((x[:, 0] - 1 - 0.05 * side) ** 2)
    bounds = (-9.0, 1.1) if side > 0 else (0.9, 9.0)
    options = {"norm": norm, "radius": 1.0, "num_steps": 2, "step_size": 0.3, "bounds": bounds}
    found = attacked(loss, jnp.ones((1, 1)), **options)
    np.testing.assert_allclose(found, 1 + side * (0.1 - 0.3), rtol=1e-5)


def test_the_edge_of_the_ball_is_reached_exactly_where_it_is_a_number_of_the_type():
    signs = np.array([1.0, -1.0, 1.0])
    inputs = jnp.array([[0.25, -1.5, 3.0], [-0.5, 2.75, 0.0]])
    found = attacked(lambda x: x @ signs, inputs, radius=0.5, num_steps=1, step_size=0.5)
    np.testing.assert_array_equal(found - inputs, np.stack([0.5 * signs] * 2))
