"""A deletion from the closed-form head: against solving again, NumPy, PyTorch, a bare matmul."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from experiments.benchmarks import timing
from unlearnjax import analytic

GAMMA, CLASSES = 1.0, 10


def run(sizes=(1_000, 10_000, 100_000), widths=(256, 1024, 2048, 4096), rows=256, repeats=3):
    """Yields one record per number of rows learned, and per width; float64."""
    with jax.enable_x64(True):
        for size in sizes:
            yield against_solving(size, 1024, min(rows, size // 2), repeats)
        for width in widths:
            yield against_others(width, rows, repeats)


def problem(size: int, width: int):
    """Random features and targets, and the state that has learned them."""
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(size, width)), 0)
    targets = np.eye(CLASSES)[rng.integers(0, CLASSES, size)]
    return features, targets


def states(features, targets):
    """Both forms, the inverse one from a direct inversion."""
    gram = analytic.init(features.shape[1], CLASSES, GAMMA, dtype=jnp.float64)
    gram = analytic.learn(gram, features, targets)
    inverse = analytic.InverseState(gram.weight, jnp.linalg.inv(gram.gram))
    return jax.block_until_ready((gram, inverse))


def against_solving(size: int, width: int, rows: int, repeats: int):
    """The cost of a deletion must not grow with the rows learned; that of solving again does."""
    features, targets = problem(size, width)
    gram, inverse = states(features, targets)
    block = jnp.asarray(features[:rows]), jnp.asarray(targets[:rows])
    rest = jnp.asarray(features[rows:]), jnp.asarray(targets[rows:])
    forget = jax.jit(analytic.try_forget)
    calls = {
        "forget (inverse)": partial(forget, inverse, *block),
        "forget (gram)": partial(forget, gram, *block),
        "solve again": partial(jax.jit(partial(analytic.solve, gamma=GAMMA)), *rest),
    }
    return timing.compare("analytic", f"{rows} of {size} rows, D={width}", calls, repeats)


def against_others(width: int, rows: int, repeats: int):
    """The same algebra elsewhere, and two products with as many multiplications and no more."""
    features, targets = problem(2 * width, width)
    _, inverse = states(features, targets)
    block = features[:rows], targets[:rows]
    device_block = tuple(jnp.asarray(x) for x in block)
    weight, matrix = (np.asarray(x) for x in inverse)
    product = jax.jit(lambda h, r: (h @ r, h.T @ h))
    calls = {
        "forget (inverse)": partial(jax.jit(analytic.try_forget), inverse, *device_block),
        "numpy": partial(numpy_forget, weight, matrix, *block),
        "matmul alone": partial(product, device_block[0], inverse.inverse),
    }
    try:
        import torch

        arrays = [torch.from_numpy(np.array(x)) for x in (weight, matrix, *block)]
        calls["torch"] = partial(torch_forget, torch, *arrays)
    except ImportError:
        pass
    return timing.compare("analytic", f"{rows} rows, D={width}", calls, repeats)


def numpy_forget(weight, inverse, features, targets):
    """Woodbury by LAPACK, written straightforwardly."""
    mapped = features @ inverse
    factor = scipy.linalg.cho_factor(np.eye(len(features)) - mapped @ features.T, lower=True)
    gain = scipy.linalg.cho_solve(factor, mapped)
    return weight - gain.T @ (targets - features @ weight), inverse + mapped.T @ gain


def torch_forget(torch, weight, inverse, features, targets):
    """The same in PyTorch."""
    mapped = features @ inverse
    eye = torch.eye(len(features), dtype=features.dtype)
    factor = torch.linalg.cholesky(eye - mapped @ features.T)
    gain = torch.cholesky_solve(mapped, factor)
    return weight - gain.T @ (targets - features @ weight), inverse + mapped.T @ gain
