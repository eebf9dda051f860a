"""Every unlearner hands parameters back in the types that they have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import problems
from tests.unlearning.methods import METHODS
from unlearnjax.types import Request

# `acu` deploys a head of its own in the place of the model.
KEEPING = sorted(METHODS.keys() - {"acu"})
KINDS = {
    "low": (jnp.bfloat16, jnp.float16, jnp.float16, jnp.bfloat16),
    "mixed": (jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32),
}


@pytest.fixture(scope="module", params=KINDS)
def problem(request):
    """A model with parameters of those types, whoever initialises it, and a request."""
    kind = KINDS[request.param]
    float32 = problems.mlp((8,))

    def init(rng, batch):
        variables = float32.init(rng, batch)
        leaves, treedef = jax.tree.flatten(variables["params"])
        cast = [leaf.astype(dtype) for leaf, dtype in zip(leaves, kind, strict=True)]
        return {**variables, "params": treedef.unflatten(cast)}

    task = float32._replace(init=init)
    data = {k: jnp.asarray(v) for k, v in problems.digits(80).items()}
    mask = np.asarray(data["targets"] == 3)
    forget, retain = ({k: v[m] for k, v in data.items()} for m in (mask, ~mask))
    return task, data, Request(forget, retain, forget), request.param


@pytest.mark.parametrize("name", KEEPING)
def test_parameters_keep_their_types_and_stay_finite(problem, name):
    task, data, request, kind = problem

    def forget(rng):
        variables = problems.init(task, data)
        deployed, memory = METHODS[name].init(rng, task, variables, data)
        return deployed, METHODS[name].update(rng, task, deployed, memory, request)[0]

    given = jax.tree.map(lambda p: p.dtype, problems.init(task, data)["params"])
    # Adam's epsilon is 0 in float16, so that there numbers say nothing.
    run = jax.jit(forget) if kind == "mixed" else lambda rng: jax.eval_shape(forget, rng)
    models = run(jax.random.key(0))
    for model in models:
        assert jax.tree.map(lambda p: p.dtype, model["params"]) == given
    if kind == "mixed":
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(models))
