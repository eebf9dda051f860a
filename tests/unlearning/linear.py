"""Softmax regression in NumPy: what full-batch steps of composed methods are checked against."""

import jax.numpy as jnp
import numpy as np
import scipy.special

from unlearnjax import tasks
from unlearnjax.types import Request

CLASSES, FEATURES = 3, 4
TASK = tasks.classification(
    tasks.Model(
        lambda rng, batch: {},
        lambda v, batch, rng, train: ({"logits": batch["inputs"] @ v["params"]["w"]}, v),
    )
)


def part(rng: np.random.Generator, size: int, **columns) -> dict:
    inputs = rng.normal(size=(size, FEATURES)).astype(np.float32)
    targets = rng.integers(CLASSES, size=size).astype(np.int32)
    return {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets), **columns}


def problem(num_forget: int = 3, num_retain: int = 9):
    """A request, and the variables of two different models: the given one and a teacher."""
    rng = np.random.default_rng(0)
    models = rng.normal(size=(2, FEATURES, CLASSES)).astype(np.float32)
    given, teacher = ({"params": {"w": jnp.asarray(w)}} for w in models)
    return Request(part(rng, num_forget), part(rng, num_retain)), given, teacher


def weights(variables) -> np.ndarray:
    return np.asarray(variables["params"]["w"], np.float64)


def cross_entropy_slopes(w, data, targets=None) -> np.ndarray:
    """`[N, D, C]`: gradient of each example's loss by the weights."""
    x = np.asarray(data["inputs"], np.float64)
    targets = np.asarray(data["targets"] if targets is None else targets)
    error = scipy.special.softmax(x @ w, axis=1) - np.eye(CLASSES)[targets]
    return x[:, :, None] * error[:, None, :]


def divergence_slopes(w, teacher, data, temperature=1.0) -> np.ndarray:
    """`[N, D, C]`: gradient of each example's `T^2 KL(teacher || student)` by the weights."""
    x = np.asarray(data["inputs"], np.float64)
    student, frozen = (scipy.special.softmax(x @ m / temperature, axis=1) for m in (w, teacher))
    return temperature * x[:, :, None] * (student - frozen)[:, None, :]
