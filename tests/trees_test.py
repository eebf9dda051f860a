import string

import jax
import jax.numpy as jnp
import pytest

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


def test_names_are_dotted_paths_and_never_alike():
    plain = {"a.b": 1, "c": [2, {"ü/x": 3}]}
    assert trees.names(plain) == ["a.b", "c.0", "c.1.ü/x"]
    assert trees.escaped_names(plain) == ["a%2Eb", "c.0", "c.1.%C3%BC%2Fx"]
    # A key with a dot, and one that looks like that key when it is escaped.
    alike = {"a": {"b": 1}, "a.b": 2, "a%2Eb": 3}
    assert trees.names(alike) == trees.escaped_names(alike) == ["a.b", "a%252Eb", "a%2Eb"]
    (path, _), *_ = jax.tree_util.tree_leaves_with_path(plain["c"])
    assert trees.path_name((jax.tree_util.DictKey("c"), *path)) == "c.0"
    assert trees.names(7) == [""] and trees.names({}) == []


@pytest.mark.parametrize(
    "key", ["", ".", "..", "%", "a%2Eb", "~_-", "a b", "\udc80", "\n", "é" * 99]
)
def test_every_key_can_be_escaped_and_read_again(key):
    (escaped,) = trees.escaped_names({key: 1})
    assert set(escaped) <= set(string.ascii_letters + string.digits + "_-~%")
    assert trees.readable([escaped]) == [key]
