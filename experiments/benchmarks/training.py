"""Training: one step, and one epoch as a compiled scan, against Python loops and PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import problems, timing, torch_reference
from unlearnjax import training

RATE = 0.1


def run(
    sizes: dict[str, int], batch_size: int = 100, steps_of: tuple[str, ...] = (), repeats: int = 3
):
    """Yields an epoch over `sizes[model]` examples per model, then steps of `steps_of`."""
    for model, num_examples in sizes.items():
        calls = epochs(model, num_examples, batch_size)
        case = f"{model}, {num_examples} examples"
        yield timing.compare("epoch", case, calls, repeats, examples=num_examples)
    for model in steps_of:
        call = {"ours": one_step(model, batch_size)}
        case = f"{model}, batch of {batch_size}"
        yield timing.compare("step", case, call, repeats, batch=batch_size)


def started(model: str, num_examples: int):
    """Data, step and state of a fresh model."""
    data = problems.images(num_examples, problems.shape(model))
    task, tx = problems.task(model), optax.sgd(RATE)
    step = training.make_step(training.supervised(task), tx)
    return (
        data,
        step,
        training.init_state(training.init_variables(task, data, jax.random.key(0)), tx),
    )


def one_step(model: str, batch_size: int) -> timing.Program:
    """A step outside of any loop."""
    data, step, state = started(model, batch_size)
    return timing.program(step, state, {**data, "weight": jnp.ones(batch_size)}, jax.random.key(0))


def epochs(model: str, num_examples: int, batch_size: int):
    """The alternatives, ours first."""
    data, step, state = started(model, num_examples)
    scan = partial(training.run_epochs, step, num_epochs=1, batch_size=batch_size)
    calls = {
        "ours": timing.program(scan, state, data, jnp.arange(num_examples), jax.random.key(1)),
        "python loop": _loop(jax.jit(step), state, data, batch_size),
    }
    if torch_reference.available() and model in ("mlp", "convnet"):
        net = torch_reference.network(model, problems.shape(model), state.variables)
        calls["torch"] = torch_reference.epoch(net, data, batch_size, RATE)
    return calls


def _loop(compiled_step, state, data, batch_size: int):
    host = {name: np.asarray(value) for name, value in data.items()}
    size = len(host["targets"])

    def loop():
        current = state
        order = np.random.default_rng(0).permutation(size)
        for rows in order[: size // batch_size * batch_size].reshape(-1, batch_size):
            batch = problems.part(host, rows)
            batch["weight"] = np.ones(batch_size, np.float32)
            current, _ = compiled_step(current, batch, jax.random.key(0))
        return current

    return loop
