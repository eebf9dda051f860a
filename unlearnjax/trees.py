"""The few pytree helpers that jax.tree and optax.tree lack."""

from typing import Any

import jax
import jax.numpy as jnp

from unlearnjax.types import PyTree


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
    """Dotted path of every leaf, in the order of `jax.tree.leaves`.

    Examples:
      >>> names({"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
      ['layer.bias', 'layer.kernel']
    """
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def path_name(path: tuple) -> str:
    """A key path of `jax.tree_util` as a dotted name."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def is_key(leaf: Any) -> bool:
    """Whether `leaf` is an array of typed random keys, which NumPy has no type for."""
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def all_finite(tree: PyTree) -> jax.Array:
    """Scalar bool: every floating-point entry of `tree` is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
