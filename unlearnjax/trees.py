"""The few pytree helpers that jax.tree and optax.tree lack."""

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib import parse

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.types import PyTree

# Names of parameters or of what holds them, or a function of a parameter's name: see `chosen`.
Where = Sequence[str] | Callable[[str], bool] | None


def size(tree: PyTree) -> int:
    """Number of scalars in `tree`.

    Examples:
      >>> size({"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
      9
    """
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """Bytes held by the arrays of `tree`."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def names(tree: PyTree) -> list[str]:
    """Dotted path of every leaf, in the order of `jax.tree.leaves`; no two are alike.

    Examples:
      >>> names({"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
      ['layer.bias', 'layer.kernel']
      >>> names({"a.b": 1, "a": {"b": 2}})
      ['a.b', 'a%2Eb']
    """
    return readable(escaped_names(tree))


def chosen(tree: PyTree, where: Where, argument: str = "where") -> list[bool]:
    """Whether `where` means each leaf, in the order of `jax.tree.leaves`.

    Args:
      tree: parameters, as a rule.
      where: dotted names of leaves, or of what is above them (`Dense_1`, `block_0.attention`); `*`
        in one stands for anything, dots too. Or a function of a leaf's dotted name. `None` is all.
      argument: what `where` is called in errors.

    Raises:
      ValueError: for a name that means nothing; it lists the names that exist.

    Examples:
      >>> tree = {"block_0": {"query": 1, "value": 2}, "block_1": {"query": 3, "value": 4}}
      >>> chosen(tree, ["block_1", "*.query"])
      [True, False, True, True]
    """
    paths = names(tree)
    if where is None:
        return [True] * len(paths)
    if callable(where):
        return [bool(where(path)) for path in paths]
    checks.not_text(**{argument: where})
    patterns = [
        re.compile(re.escape(name).replace(r"\*", ".*") + r"(\..*)?", re.S) for name in where
    ]
    for name, pattern in zip(where, patterns, strict=True):
        if not any(map(pattern.fullmatch, paths)):
            known = sorted({path.rpartition(".")[0] or path for path in paths})
            near = checks.near([name], [*known, *paths])
            raise ValueError(f"{argument} must be among {known}, got {name!r}{near}")
    return [any(pattern.fullmatch(path) for pattern in patterns) for path in paths]


def escaped_names(tree: PyTree) -> list[str]:
    """Like `names`, but so that other paths have other names, whatever the keys are.

    In each key all but letters, digits, '_', '-' and '~' is percent-encoded, its dots above all.
    """
    key = lambda entry: jax.tree_util.keystr((entry,), simple=True)
    return [
        ".".join(_escape(key(entry)) for entry in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def readable(escaped: Sequence[str]) -> list[str]:
    """`escaped_names` decoded, or, where two would then be alike, as they are."""
    plain = [parse.unquote(name, errors="surrogatepass") for name in escaped]
    return plain if len(set(plain)) == len(plain) else list(escaped)


def _escape(key: str) -> str:
    return parse.quote(key, safe="", errors="surrogatepass").replace(".", "%2E")


def path_name(path: tuple) -> str:
    """A key path of `jax.tree_util` as a dotted name."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def same(one: PyTree, two: PyTree) -> bool:
    """Whether two trees hold the very same leaves: nothing has been computed in between.

    Examples:
      >>> x = jnp.ones(2)
      >>> same({"a": x}, {"a": x}), same({"a": x}, {"a": x + 0}), same({"a": x}, None)
      (True, False, False)
    """
    leaves = [jax.tree.flatten(tree) for tree in (one, two)]
    (ours, structure), (theirs, other) = leaves
    return structure == other and all(a is b for a, b in zip(ours, theirs, strict=True))


def is_key(leaf: Any) -> bool:
    """Whether `leaf` is an array of typed random keys, which NumPy has no type for."""
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def widened(tree: PyTree) -> PyTree:
    """Floating-point leaves of fewer digits as float32, in which sums can be taken; others stay.

    Examples:
      >>> [x.dtype.name for x in widened([jnp.ones(2, jnp.bfloat16), jnp.arange(2)])]
      ['float32', 'int32']
    """

    def leaf(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if floating else x

    return jax.tree.map(leaf, tree)


def all_finite(tree: PyTree) -> jax.Array:
    """Scalar bool: every floating-point entry of `tree` is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
