"""What tells a row that was learned from one that was not, without keeping it."""

import hashlib

import numpy as np


def digests(X: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> list[bytes]:
    """16 bytes for every row; -0 is 0, and a float32 the same number in float64."""
    rows = np.ascontiguousarray(np.column_stack([X, ids, weights]) + 0.0)
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
