"""The exact Fisher diagonal by layer rules, against its definition and the batch variant."""

from functools import partial

import jax

from experiments.benchmarks import problems, timing
from unlearnjax import curvature


def run(num_examples: int = 1000, repeats: int = 3):
    """Yields one record per model."""
    data = problems.images(num_examples)
    for model in ("mlp", "convnet"):
        task = problems.task(model)
        variables = task.init(jax.random.key(0), data)

        def fisher(method, task=task):
            return jax.jit(partial(curvature.fisher_diagonal, task, method=method))

        size = min(128, num_examples)
        batch = jax.jit(partial(curvature.batch_gradient_squared, task, batch_size=size))
        calls = {
            "layers (exact)": partial(fisher("layers"), variables, data),
            "vmap(grad) (exact)": partial(fisher("vmap"), variables, data),
            "batch squared (inexact)": partial(batch, variables, data),
        }
        yield timing.compare("fisher", f"{model}, {num_examples} examples", calls, repeats)
