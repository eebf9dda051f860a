"""One training epoch as one compiled scan, against a Python loop over the same compiled step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import problems, timing
from unlearnjax import training


def run(num_examples: int = 2000, batch_size: int = 100, repeats: int = 3):
    """Yields one record per model."""
    data = problems.images(num_examples)
    host = {name: np.asarray(value) for name, value in data.items()}
    for model in ("mlp", "convnet"):
        task, tx = problems.task(model), optax.sgd(0.1)
        step = training.make_step(training.supervised(task), tx)
        state = training.init_state(training.init_variables(task, data, jax.random.key(0)), tx)
        options = {"num_epochs": 1, "batch_size": batch_size}
        scan = jax.jit(partial(training.run_epochs, step, **options))
        compiled_step = jax.jit(step)

        def loop(state=state, compiled_step=compiled_step):
            order = np.random.default_rng(0).permutation(num_examples).reshape(-1, batch_size)
            for rows in order:
                batch = {name: value[rows] for name, value in host.items()}
                batch["weight"] = np.ones(batch_size, np.float32)
                state, _ = compiled_step(state, batch, jax.random.key(0))
            return state

        calls = {
            "scan": partial(scan, state, data, jnp.arange(num_examples), jax.random.key(1)),
            "python loop": loop,
        }
        yield timing.compare("epoch", f"{model}, {num_examples} examples", calls, repeats)
