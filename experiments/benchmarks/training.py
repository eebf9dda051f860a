"""Training: one step, and one epoch as a compiled scan, against Python loops and PyTorch."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import problems, timing, torch_models, torch_reference
from unlearnjax import training

RATE = 0.1


def run(
    sizes: dict[str, int],
    batch_size: int = 100,
    steps_of: tuple[str, ...] = (),
    loop: bool = True,
    dtype: str = "float32",
    source: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    repeats: int = 3,
):
    """Yields an epoch over `sizes[model]` examples per model, then steps of `steps_of`.

    Args:
      loop: whether a loop in Python is timed, too.
      dtype: what is computed in; parameters are float32.
      source: of the images, see `problems.examples`.
      options: of the models.
    """
    for model, num_examples in sizes.items():
        problem = problems.problem(model, num_examples, None, source, dtype, **options)
        calls = {"ours": epoch(problem, batch_size)}
        if loop:
            calls["python loop"] = _loop(problem, batch_size)
        if torch_models.available() and model in torch_models.KNOWN:
            net = torch_models.network(model, problem.shape, problem.variables, **options)
            calls["torch"] = torch_reference.epoch(net, problem.data, batch_size, RATE, dtype)
        case = f"{model}, {problem.text}" + (f", {dtype}" if dtype != "float32" else "")
        yield timing.compare(
            "epoch", case, calls, repeats, dtype, {"images": num_examples}, examples=num_examples
        )
    for model in steps_of:
        call = {"ours": one_step(model, batch_size)}
        case = f"{model}, batch of {batch_size}"
        yield timing.compare(
            "step", case, call, repeats, counts={"images": batch_size}, batch=batch_size
        )


def started(problem: problems.Problem):
    """Step and state."""
    tx = optax.sgd(RATE)
    step = training.make_step(training.supervised(problem.task), tx)
    return step, training.init_state(problem.variables, tx)


def one_step(model: str, batch_size: int) -> timing.Program:
    """A step outside of any loop."""
    problem = problems.problem(model, batch_size)
    step, state = started(problem)
    batch = {**problem.data, "weight": jnp.ones(batch_size)}
    return timing.program(step, state, batch, jax.random.key(0))


def epoch(problem: problems.Problem, batch_size: int) -> timing.Program:
    """One program for all steps."""
    step, state = started(problem)
    rows = jnp.arange(len(problem.data["targets"]))
    scan = partial(training.run_epochs, step, num_epochs=1, batch_size=batch_size)
    return timing.program(scan, state, problem.data, rows, jax.random.key(1))


def _loop(problem: problems.Problem, batch_size: int):
    step, state = started(problem)
    compiled_step = jax.jit(step)
    host = {name: np.asarray(value) for name, value in problem.data.items()}
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
