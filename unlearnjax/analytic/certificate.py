"""A record of one deletion: what was removed, from what to what, and how exactly.

Format, version 1 (all digests SHA-256, hexadecimal):

  schema            1
  request           the caller's name of the request
  form              'gram' or 'inverse'
  removed           {'count': n, 'indices': digest of the sorted indices, each once, int64,
                    little-endian}
  before, after     digests of the state: its arrays one after another, C order, little-endian
  residual          |A W - B| / |B| of the state that is left ('gram'; else null)
  distance_bound    upper bound of |W - W*| / |W| with W* the exact solution for what is left, from
                    |A^-1| <= 1 / gamma: |A W - B| / (gamma |W|) ('gram'; else null; null if W = 0)

A holder of the state can check `after` and the residual without any data; a holder of the ledger of
indices can check `removed`. The bound is on solving the equations that are kept; that A and B are
the sums over what is left is what the tests of `try_forget` show, to rounding.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax.analytic import recursive
from unlearnjax.analytic.gram import GramState

SCHEMA = 1


def certificate(
    before: recursive.State, after: recursive.State, indices: Sequence[int], request: str
) -> dict[str, Any]:
    """The record of a deletion, as plain values for JSON.

    Args:
      before, after: the state on either side of `forget`.
      indices: of the removed examples in the training set; one that is named twice is one.
      request: its name.

    Raises:
      ValueError: for indices that are not integers >= 0.
    """
    given = np.asarray(indices)
    if given.size and not (np.issubdtype(given.dtype, np.integer) and given.min() >= 0):
        raise ValueError(f"indices must be integers >= 0, got {given.min()}")
    removed = np.unique(given).astype("<i8")
    kept_sums = isinstance(after, GramState)
    residual, bound = None, None
    if kept_sums:
        with jax.enable_x64(True):
            residual = float(recursive.residual(after))
            size = float(after.gamma * jnp.linalg.norm(after.weight))
            bound = residual * float(jnp.linalg.norm(after.moment)) / size if size else None
    return {
        "schema": SCHEMA,
        "request": request,
        "form": "gram" if kept_sums else "inverse",
        "removed": {"count": len(removed), "indices": _sha256(removed)},
        "before": digest(before),
        "after": digest(after),
        "residual": residual,
        "distance_bound": bound,
    }


def digest(state: recursive.State) -> str:
    """SHA-256 of a state: its arrays one after another, C order, little-endian."""
    return _sha256(*(np.asarray(leaf) for leaf in jax.tree.leaves(state)))


def _sha256(*arrays: np.ndarray) -> str:
    result = hashlib.sha256()
    for array in arrays:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        result.update(np.ascontiguousarray(little).tobytes())
    return result.hexdigest()
