"""Which rows of the training data a request means: `index` is an id, not a position.

What is only known inside of compiled code is not checked there, and does no harm: an id that is not
of the training data matches no row of it.
"""

import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, Request


def of(data: Data, name: str) -> Array:
    """`index` of a data set as the platform's integers `[N]`.

    Args:
      data: `index` may hold any unique integers, in any order.
      name: of the data, for errors.

    Raises:
      ValueError: without `index`, or if it does not hold integers that fit and are unique.
    """
    if "index" not in data:
        raise ValueError(f"{name} must have 'index', an id of every example, got {sorted(data)}")
    index = data["index"]
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(f"index of {name} must be integers, got {index.dtype}")
    dtype = jnp.asarray(0).dtype
    if not checks.traced(index):
        values, counts = np.unique(np.asarray(index), return_counts=True)
        bounds = jnp.iinfo(dtype)
        wide = values[(values < bounds.min) | (values > bounds.max)]
        if wide.size:
            raise ValueError(
                f"index of {name} must fit {dtype}, got {_first(wide)}; number the examples, or "
                "set JAX_ENABLE_X64"
            )
        if (counts > 1).any():
            raise ValueError(
                f"index of {name} must be unique, got {_first(values[counts > 1])} more than once"
            )
    return jnp.asarray(index).astype(dtype)


def find(known: Array, wanted: Array) -> Array:
    """`[M]` positions of the ids `wanted` in `known` `[N]`, -1 for one that is not there.

    Examples:
      >>> find(jnp.array([30, -7, 12]), jnp.array([12, 13, 30])).tolist()
      [2, -1, 0]
    """
    order = jnp.argsort(known)
    place = order[jnp.searchsorted(known[order], wanted)]  # beyond the end: the last
    return jnp.where(known[place] == wanted, place, -1)


def resolve(known: Array, active: Array, request: Request) -> tuple[Array, Array]:
    """What a request means for exact deletion.

    Args:
      known: `[N]` ids of the training data, see `of`.
      active: `[N]`, 1 until an example is forgotten.
      request: with forget and retain data, in any order. An example in both stays: it is touched by
        what is forgotten, such as an edge, without being that itself.

    Returns:
      `(gone, position)`: `[N]` bool, which examples are to be forgotten now, and `[N]`, where each
      lies in the retain set, -1 if it does not.

    Raises:
      ValueError: for an empty retain set; and, where values are known, if the forget set names an
        example twice, one that never was or one that is forgotten already, or if the retain set
        lacks examples that are to stay.
    """
    forget, retain = of(request.forget, "the forget set"), of(request.retain, "the retain set")
    if not data_lib.num_examples(request.retain):
        raise ValueError("the retain set must have at least one example, got none")
    if not any(map(checks.traced, (known, active, forget, retain))):
        _validate(*map(np.asarray, (known, active, forget, retain)))
    gone = jnp.isin(known, forget) & ~jnp.isin(known, retain)
    return gone & (active > 0), find(retain, known)


def _validate(known, active, forget, retain) -> None:
    unknown = forget[~np.isin(forget, known)]
    if unknown.size:
        raise ValueError(
            f"index of the forget set must be of the training data, got {_first(unknown)}"
        )
    again = forget[np.isin(forget, known[active == 0])]
    if again.size:
        raise ValueError(
            f"index of the forget set must not be forgotten already, got {_first(again)}"
        )
    missing = known[(active > 0) & ~np.isin(known, np.concatenate([forget, retain]))]
    if missing.size:
        raise ValueError(
            "the retain set must hold all examples that are not forgotten, lacks those of index "
            f"{_first(missing)}"
        )


def _first(ids) -> str:
    shown = ", ".join(map(str, ids[:5].tolist()))
    return f"{shown}, ... ({len(ids)} in all)" if len(ids) > 5 else shown
