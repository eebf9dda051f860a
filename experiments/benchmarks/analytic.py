"""The closed-form head: deletions, against solving again, NumPy, PyTorch, a bare matmul."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from experiments.benchmarks import timing, torch_models, torch_reference
from unlearnjax import analytic

GAMMA, CLASSES = 1.0, 10
DTYPE = "float64"


def run(sizes=(), against=(), rows=256, refit_width=0, repeats=3):
    """Yields records in float64.

    Args:
      sizes: numbers of rows learned, at D=1024: the cost of a deletion must not grow with them.
      against: `(D, rows learned, rows to forget)`, compared with other implementations.
      rows: how many are forgotten of each of `sizes`.
      refit_width: D of a comparison with learning the rest row by row; 0 leaves it out.
    """
    with jax.enable_x64(True):
        for size in sizes:
            yield against_solving(size, 1024, min(rows, size // 2), repeats)
        for width, size, gone in against:
            yield against_others(width, size, gone, repeats)
            yield learning(width, size, gone, repeats)
        if refit_width:
            yield against_refitting(refit_width, rows, repeats)


def problem(size: int, width: int):
    """Random features and targets."""
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(size, width)), 0)
    targets = np.eye(CLASSES)[rng.integers(0, CLASSES, size)]
    return features, targets


def states(features, targets):
    """What has learned them, in both forms, the inverse one from a direct inversion."""
    gram = analytic.init(features.shape[1], CLASSES, GAMMA, dtype=jnp.float64)
    gram = analytic.learn(gram, features, targets)
    inverse = analytic.InverseState(gram.weight, jnp.linalg.inv(gram.gram), gram.gamma)
    return jax.block_until_ready((gram, inverse))


def against_solving(size: int, width: int, rows: int, repeats: int):
    """A deletion, and the ridge regression of what is left."""
    features, targets = problem(size, width)
    gram, inverse = states(features, targets)
    block = jnp.asarray(features[:rows]), jnp.asarray(targets[:rows])
    rest = jnp.asarray(features[rows:]), jnp.asarray(targets[rows:])
    calls = {
        "ours": timing.program(analytic.try_forget, inverse, *block),
        "ours, gram form": timing.program(analytic.try_forget, gram, *block),
        "solve again": timing.program(partial(analytic.solve, gamma=GAMMA), *rest),
    }
    case = f"forget {rows} of {size} rows, D={width}"
    return timing.compare("acu", case, calls, repeats, DTYPE, examples=size)


def against_others(width: int, size: int, rows: int, repeats: int):
    """The same algebra elsewhere, and two products with as many multiplications and no more."""
    features, targets = problem(size, width)
    gram, inverse = states(features, targets)
    block = features[:rows], targets[:rows]
    device_block = tuple(jnp.asarray(x) for x in block)
    weight, matrix = (np.asarray(x) for x in (inverse.weight, inverse.inverse))
    products = lambda h, r: (h @ r, h.T @ h)
    calls = {
        "ours": timing.program(analytic.try_forget, inverse, *device_block),
        "numpy": partial(numpy_forget, weight, matrix, *block),
        "matmul alone": timing.program(products, device_block[0], inverse.inverse),
    }
    if torch_models.available():
        rest = features[rows:], targets[rows:]
        calls["torch"] = torch_reference.woodbury(weight, matrix, *block)
        calls["torch, downdate"] = torch_reference.downdate(gram.gram, gram.moment, *block)
        calls["torch, solve again"] = torch_reference.resolve(*rest, GAMMA)
    case = f"forget {rows} of {size} rows, D={width}, others"
    return timing.compare("acu", case, calls, repeats, DTYPE, features=width)


def learning(width: int, size: int, rows: int, repeats: int):
    """`rows` more."""
    features, targets = problem(size, width)
    gram, inverse = states(features, targets)
    block = jnp.asarray(features[:rows]), jnp.asarray(targets[:rows])
    calls = {
        "ours": timing.program(analytic.learn, inverse, *block),
        "ours, gram form": timing.program(analytic.learn, gram, *block),
    }
    return timing.compare(
        "acu", f"learn {rows} rows, D={width}", calls, repeats, DTYPE, features=width
    )


def against_refitting(width: int, rows: int, repeats: int):
    """A deletion, and learning the rest again in blocks of as many rows, one after another."""
    features, targets = problem(10 * rows, width)
    _, inverse = states(features, targets)
    block = jnp.asarray(features[:rows]), jnp.asarray(targets[:rows])
    rest = jnp.asarray(features[rows:]), jnp.asarray(targets[rows:])

    def refit(features, targets):
        state = analytic.init(width, CLASSES, GAMMA, form="inverse", dtype=jnp.float64)
        one = lambda state, row: (analytic.learn(state, row[0][None], row[1][None]), None)
        return jax.lax.scan(one, state, (features, targets))[0]

    calls = {
        "ours": timing.program(analytic.try_forget, inverse, *block),
        "refit row by row": timing.program(refit, *rest),
    }
    case = f"forget {rows} of {10 * rows} rows, D={width}, recursive"
    return timing.compare("acu", case, calls, repeats, DTYPE, features=width)


def numpy_forget(weight, inverse, features, targets):
    """Woodbury by LAPACK, written straightforwardly."""
    mapped = features @ inverse
    factor = scipy.linalg.cho_factor(np.eye(len(features)) - mapped @ features.T, lower=True)
    gain = scipy.linalg.cho_solve(factor, mapped)
    return weight - gain.T @ (targets - features @ weight), inverse + mapped.T @ gain
