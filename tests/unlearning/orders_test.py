import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax.unlearning import orders


@pytest.mark.parametrize("over, steps", [("union", 6), ("paired", 4), ("alternate", 6)])
def test_whoever_is_stopped_earlier_was_on_the_same_way(over, steps):
    """Also in another pass."""
    full = orders.order(over, {"forget": jnp.arange(4), "retain": 4 + jnp.arange(7)}, 2)
    cuts = [orders.cut(full, number) for number in (steps + 1, steps + 3)]
    assert [epochs for _, epochs in cuts] == [2, 2]

    @jax.jit
    def taken(key):
        return [[cut(key, epoch) for epoch in range(2)] for cut, _ in cuts]

    early, late = (np.concatenate(found) for found in taken(jax.random.key(0)))
    assert len(early) == 2 * steps
    for rows, number in ((early, steps + 1), (late, steps + 3)):
        real = (rows >= 0).any(1)
        assert real[:number].all() and not real[number:].any()
    np.testing.assert_array_equal(late[: steps + 1], early[: steps + 1])
