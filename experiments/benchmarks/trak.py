"""Projected gradients for TRAK: in blocks, against materialising all gradients, and PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from experiments.benchmarks import problems, timing, torch_models, torch_reference
from unlearnjax import attribution, trees

SHAPE = (8, 8, 1)
BLOCK = 4096


def run(
    sizes: dict[str, int],
    num_projections: int = 512,
    batch_size: int = 50,
    sample: int = 0,
    source: str | None = None,
    repeats: int = 3,
):
    """Yields one record per model, over `sizes[model]` examples.

    Args:
      sample: how many examples PyTorch gets; the time is scaled to all. 0 is all.
      source: of the images, see `problems.examples`.
    """
    for model, num_examples in sizes.items():
        task, data, variables, shape, text = problems.problem(model, num_examples, SHAPE, source)
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
        if torch_models.available():
            net = torch_models.network(model, shape, variables)
            few = problems.part(data, slice(sample or num_examples))
            share = len(few["targets"]) / num_examples
            project = partial(
                torch_reference.project_gradients, net, few, num_projections, batch_size
            )
            calls["torch"] = timing.Sample(project(BLOCK), share)
            calls["torch, stored matrix"] = timing.Sample(project(), share)
        yield timing.compare(
            "trak",
            f"{model}, {text}, k={num_projections}",
            calls,
            repeats,
            counts={"images": num_examples},
            examples=num_examples,
        )
