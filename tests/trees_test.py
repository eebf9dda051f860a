import jax.numpy as jnp

from unlearnjax import trees

TREE = {"a": jnp.ones((2, 3)), "b": [jnp.zeros(4, jnp.bfloat16), jnp.arange(5)]}


def test_size_counts_scalars_and_nbytes_their_storage():
    assert trees.size(TREE) == 6 + 4 + 5
    assert trees.nbytes(TREE) == 24 + 8 + 20


def test_all_finite_sees_one_bad_entry_and_ignores_integers():
    assert trees.all_finite(TREE)
    assert not trees.all_finite({**TREE, "c": jnp.array([1.0, jnp.nan])})
    assert not trees.all_finite({**TREE, "c": jnp.array([-jnp.inf])})
    assert trees.all_finite({"only": jnp.arange(3)})
