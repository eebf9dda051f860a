"""Projected gradients for TRAK: in blocks, against materialising all gradients, and PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from experiments.benchmarks import problems, timing, torch_reference
from unlearnjax import attribution, trees

SHAPE = (8, 8, 1)
BLOCK = 4096


def run(sizes: dict[str, int], num_projections: int = 512, batch_size: int = 50, repeats: int = 3):
    """Yields one record per model, over `sizes[model]` examples."""
    for model, num_examples in sizes.items():
        data, task = problems.images(num_examples, SHAPE), problems.task(model)
        variables = task.init(jax.random.key(0), problems.part(data, slice(1)))
        width = trees.size(variables["params"])
        matrix = jax.random.rademacher(jax.random.key(1), (width, num_projections), jnp.float32)

        def in_blocks(variables, data, task=task):
            return attribution.project_gradients(
                task,
                variables,
                data,
                jax.random.key(0),
                num_projections=num_projections,
                batch_size=batch_size,
            )

        def materialised(variables, data, matrix, task=task):
            """All gradients `[N, P]`, then one product with a stored matrix."""
            flat, unravel = ravel_pytree(variables["params"])

            def gradient(example):
                batch = {name: value[None] for name, value in example.items()}
                margin = lambda p: attribution.margin_output(task, {"params": unravel(p)}, batch)
                return jax.grad(lambda p: margin(p)[0, 0])(flat)

            return jax.vmap(gradient)(data) @ matrix

        calls = {
            "ours": timing.program(in_blocks, variables, data),
            "all gradients at once": timing.program(materialised, variables, data, matrix),
        }
        if torch_reference.available():
            net = torch_reference.network(model, SHAPE, variables)
            project = partial(
                torch_reference.project_gradients, net, data, num_projections, batch_size
            )
            calls["torch"] = project(BLOCK)
            calls["torch, stored matrix"] = project()
        case = f"{model}, {num_examples} examples, k={num_projections}"
        yield timing.compare("trak", case, calls, repeats, examples=num_examples)
