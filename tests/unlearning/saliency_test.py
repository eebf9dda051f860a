import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import curvature
from unlearnjax.types import Request
from unlearnjax.unlearning import saliency


def test_only_the_share_with_the_largest_gradient_moves(rng):
    task = problems.softmax_regression()
    data = problems.digits(60)
    variables = problems.init(task, data)
    request = Request({k: v[:20] for k, v in data.items()})
    gradient = curvature.mean_gradient(task, variables, request.forget)
    doubled = task._replace(loss=lambda outputs, batch: outputs["logits"][:, 0] ** 2)
    other = curvature.mean_gradient(doubled, variables, request.forget)
    params = variables["params"]
    ones = jax.tree.map(jnp.ones_like, params)
    for of, expected in ((None, gradient), (lambda task: doubled, other)):
        options = {} if of is None else {"of": of}
        transform = saliency.salient(optax.sgd(1.0), 0.1, **options)
        tx = transform(None, task, variables, request)
        updates, _ = tx.update(ones, tx.init(params), params)
        moved, size = (
            np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
            for tree in (updates, expected)
        )
        assert (moved != 0).sum() == round(0.1 * moved.size)
        assert np.abs(size[moved != 0]).min() >= np.abs(size[moved == 0]).max()
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 0"):
        saliency.salient(optax.sgd(1.0), 0.0)
