"""How the closed forms are computed: in float64, whatever the types of what they are given.

A ridge regression holds two sizes side by side, the squares of the features and gamma, and
forgetting needs the smaller one. float32 tells them apart up to a ratio of about 1e4, which rows of
raw pixels exceed a million times; so the sums (or the inverse), all products and all solutions are
float64 inside of `jax.enable_x64(True)`, which leaves the caller's setting as it is, and only the
weight is rounded to the type of the state. CPUs take about twice the time of float32; GPUs for
computing have float64 units, those for graphics are slower by up to 64 times; TPUs emulate float64
(about 48 bits), correctly and slowly.

What rounding does to a result is about `2e-16 q`, q being

  gram form      the largest diagonal entry of A (sum of squares of a column, plus gamma) over the
                 pivot of its Cholesky factor: up to `|H|^2 / gamma` for fewer rows than features,
                 near 1 for many rows of independent features, whatever their scale
  inverse form   the largest `|h|^2 / gamma` times the trace of `K`, `(I + H R H')^-1` to learn and
                 `(I - H R H')^-1` to forget: up to `(|H|^2 / gamma)^2` for fewer rows than features

Where that is more than `TOLERANCE` nothing is answered: calls are refused, compiled ones return
NaN. So for features of scale s, N rows and gamma 0.1 the gram form is right at every s up to 1e4
(N up to about 1e4 if they are fewer than the features), and so is learning in the inverse form;
forgetting rows that nearly determine their own prediction takes s up to about 100 there. There is
no lower limit of s.

Products are `jax.lax.dot`: those of `jax.numpy` name their type a second time, which is refused to
them when a compiled program is mapped over outside of the scope.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.types import Array

TOLERANCE = 1e-3


def float64(fn: Callable) -> Callable:
    """`fn`, computed with float64 allowed."""

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        with jax.enable_x64(True):
            return fn(*args, **kwargs)

    return wrapped


def rounded_away(size: Array) -> Array:
    """What must be exceeded beside `size` to be known to `TOLERANCE`."""
    return size * (jnp.finfo(jnp.float64).eps / TOLERANCE)


def broken(condition: Array) -> bool:
    """Whether it is known to be false: a condition of compiled code is not known."""
    return not checks.traced(condition) and not bool(condition)


def floating(values: Array) -> jnp.dtype:
    """The type that results for these values have: theirs, if it is floating, else float32."""
    dtype = jnp.asarray(values).dtype
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.dtype(jnp.float32)
