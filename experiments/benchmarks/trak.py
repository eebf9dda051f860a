"""Projected gradients for TRAK: in blocks, against materialising all gradients."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from experiments.benchmarks import problems, timing
from unlearnjax import attribution

SHAPE = (8, 8, 1)


def run(num_examples=500, num_projections=512, batch_size=50, repeats=3):
    """Yields one record per model, with the peak memory of both of our programs in bytes."""
    data = problems.images(num_examples, SHAPE)
    for model in ("mlp", "convnet"):
        task = problems.task(model)
        variables = task.init(jax.random.key(0), data)
        num_parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
        matrix = jax.random.rademacher(
            jax.random.key(1), (num_parameters, num_projections), jnp.float32
        )

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

        calls, peaks = {}, {}
        for name, fn, args in (
            ("in blocks", in_blocks, (variables, data)),
            ("materialised", materialised, (variables, data, matrix)),
        ):
            program = jax.jit(fn).lower(*args).compile()
            memory = program.memory_analysis()
            peaks[name] = memory.temp_size_in_bytes + memory.argument_size_in_bytes
            calls[name] = partial(program, *args)
        case = f"{model}, {num_examples} examples, k={num_projections}"
        record = timing.compare("trak", case, calls, repeats)
        rates = {name: round(num_examples / s) for name, s in record["seconds"].items()}
        yield {**record, "examples_per_second": rates, "bytes": peaks}
