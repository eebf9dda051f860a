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


def test_leaves_are_chosen_by_name_by_what_is_above_them_by_pattern_or_by_function():
    block = {"query": {"kernel": 1, "bias": 2}, "query_2": 3}
    tree = {"block_0": block, "block_1": block, "out": [4, 5]}
    paths = trees.names(tree)

    def means(where):
        return [p for p, own in zip(paths, trees.chosen(tree, where), strict=True) if own]

    assert means(None) == paths and means([]) == []
    assert means(["block_0.query"]) == ["block_0.query.bias", "block_0.query.kernel"]
    assert means(["out.1", "block_0.query_2"]) == ["block_0.query_2", "out.1"]
    assert means(["*.query"]) == [p for p in paths if ".query." in p]
    assert means(["block_*.kernel"]) == ["block_0.query.kernel", "block_1.query.kernel"]
    assert means(("*",)) == paths
    assert means(lambda path: path.endswith("bias")) == [p for p in paths if p.endswith("bias")]
    # Only the star is special, and a name in the tree may hold whatever it likes.
    odd = {"a+b": 1, "a.b": 2, "aab": 3, "line\nbreak": 4}
    assert trees.chosen(odd, ["a+b"]) == [True, False, False, False]
    assert trees.chosen(odd, ["a.b"]) == [False, True, False, False]
    assert trees.chosen(odd, ["l*k"]) == [False, False, False, True]


def test_a_name_of_nothing_is_refused_with_the_nearest():
    tree = {"first": {"kernel": 1, "bias": 2}, "last": {"kernel": 3}, "scale": 4}
    known = r"\['first', 'last', 'scale'\]"
    with pytest.raises(ValueError, match=f"where must be among {known}, got 'lats'; did.*'last'"):
        trees.chosen(tree, ["first", "lats"])
    with pytest.raises(ValueError, match=r"parts must be .*'last.kernle'; did.*'last.kernel'\?"):
        trees.chosen(tree, ["last.kernle"], "parts")
    with pytest.raises(ValueError, match="parts must be several names, .* got 'last'"):
        trees.chosen(tree, "last", "parts")
