"""LoRA: a step on low-rank changes against a step on the whole model, in time and in bytes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import problems, timing
from unlearnjax import tasks, training, trees
from unlearnjax.types import Task, Variables

RATE = 1e-3


def run(
    sizes: dict[str, int],
    rank: int = 8,
    shape: tuple[int, int, int] | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    repeats: int = 5,
):
    """Yields a step of `sizes[model]` examples per model, by Adam.

    The reference is LoRA of `rank`; the others are the whole model, and the last layer alone, which
    is the least that a frozen model costs. `kept_bytes` are what a step needs beside the model: the
    optimizer's state and the gradients, `kept_share` of those of the whole model.
    """
    for model, batch_size in sizes.items():
        problem = problems.problem(model, batch_size, shape, **options)
        whole, start = problem.task, problem.variables
        changes = tasks.lora(whole, rank)
        last = [tasks.layer_names(whole, start, problem.data)[-1]]
        models = {
            f"lora, rank {rank}": (
                changes,
                {**changes.init(jax.random.key(1), problem.data), **tasks.as_base(start)},
            ),
            "whole model": (whole, start),
            "last layer": (tasks.trained(whole, last), tasks.split(start, last)),
        }
        calls = {name: step(*given, problem.data) for name, given in models.items()}
        bytes_kept = {name: kept(variables) for name, (_, variables) in models.items()}
        first, second, _ = (f"{size / 1e6:.3g}" for size in bytes_kept.values())
        case = f"step, {model}, batch {batch_size}, keeps {first} instead of {second} MB"
        record = timing.compare("adapters", case, calls, repeats)
        shares = {name: size / bytes_kept["whole model"] for name, size in bytes_kept.items()}
        yield record | {"kept_bytes": bytes_kept, "kept_share": shares}


def step(task: Task, variables: Variables, data: Mapping[str, jax.Array]) -> timing.Program:
    """One step, compiled."""
    tx = optax.adam(RATE)
    batch = {**data, "weight": jnp.ones(len(data["targets"]))}
    state = training.init_state(variables, tx)
    one = training.make_step(training.supervised(task), tx)
    return timing.program(one, state, batch, jax.random.key(0))


def kept(variables: Variables) -> int:
    """Bytes of the optimizer's state and of the gradients, which are like the parameters."""
    params = variables["params"]
    return trees.nbytes((jax.eval_shape(optax.adam(RATE).init, params), params))
