"""How far the closed-form states drift from a fresh solution over many small requests.

Not a ratio of times: each record is the relative distance of the weight after so many alternating
requests (a random row is forgotten, or learned again if it is gone) to a float64 solution over the
rows that are left.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from unlearnjax import analytic

GAMMA = 1.0


def run(width: int = 128, num_rows: int = 500, checkpoints=(10, 100, 1_000, 10_000)):
    """Yields one record per form and dtype, on real digits."""
    inputs, labels = (x[:num_rows] for x in load_digits(return_X_y=True))
    order = np.random.default_rng(0).integers(0, num_rows, max(checkpoints))
    with jax.enable_x64(True):
        projection = analytic.random_projection(jax.random.key(0), inputs.shape[1], width)
        features = analytic.expand(projection, jnp.asarray((inputs - inputs.mean()) / inputs.std()))
        targets = analytic.one_hot(labels, 10, jnp.float64)
        for form in analytic.FORMS:
            for dtype in (jnp.float32, jnp.float64):
                yield record(form, dtype, features, targets, order, checkpoints)


def record(form, dtype, features, targets, order, checkpoints):
    """Distances at each of the checkpoints."""
    state = analytic.init(features.shape[1], targets.shape[1], GAMMA, form=form, dtype=dtype)
    state = analytic.learn(state, features, targets)
    left, distances, begin = jnp.ones(len(features), bool), {}, 0
    for end in checkpoints:
        state, left = requests(state, left, features, targets, jnp.asarray(order[begin:end]))
        exact = analytic.solve(features, targets, GAMMA, left.astype(jnp.float64))
        error = jnp.linalg.norm(state.weight - exact) / jnp.linalg.norm(exact)
        distances[str(end)] = float(f"{float(error):.2g}")
        begin = end
    name = jnp.dtype(dtype).name
    return {"benchmark": "drift", "case": f"{form}, {name}, D={features.shape[1]}", **distances}


@jax.jit
def requests(state, left, features, targets, order):
    """One request after another, compiled."""

    def one(carry, i):
        state, left = carry
        row = features[i][None], targets[i][None]
        out, back = analytic.try_forget(state, *row)[0], analytic.learn(state, *row)
        state = jax.tree.map(lambda o, b: jnp.where(left[i], o, b), out, back)
        return (state, left.at[i].set(~left[i])), None

    return jax.lax.scan(one, (state, left), order)[0]
