"""How an epoch, the Fisher diagonal and an ensemble grow: with N, P, the batch, the devices."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import problems, timing
from unlearnjax import curvature, parallel, training
from unlearnjax.training import ensembles


def run(
    examples: tuple[int, ...] = (),
    widths: tuple[int, ...] = (),
    batches: tuple[int, ...] = (),
    models: tuple[int, ...] = (),
    base: int = 2000,
    repeats: int = 3,
) -> Iterator[dict]:
    """Yields a record per curve of an MLP; its points are the alternatives, by their size.

    Over devices: one, two, four, ... of those there are.

    Args:
      examples, widths, batches, models: the points; of the others each curve takes `base`
        examples, width 256, batches of 100.
    """
    devices = [2**i for i in range(jax.device_count().bit_length())]
    curves = {
        "epoch, examples": {n: _epoch(n) for n in examples},
        "epoch, width": {w: _epoch(base, width=w) for w in widths},
        "epoch, batch size": {b: _epoch(base, batch_size=b) for b in batches},
        "Fisher diagonal, examples": {n: _fisher(n) for n in examples},
        "Fisher diagonal, width": {w: _fisher(base, width=w) for w in widths},
        "ensemble, models": {m: _ensemble(base, m) for m in models},
    }
    if len(devices) > 1:
        curves["epoch, devices"] = {n: _on(n, _epoch, base, batch_size=128) for n in devices}
        curves["Fisher diagonal, devices"] = {n: _on(n, _fisher, base) for n in devices}
        curves["ensemble, devices"] = {
            n: _ensemble(base, devices[-1] * 4, ensembles.model_mesh(jax.devices()[:n]))
            for n in devices
        }
    for name, points in curves.items():
        if points:
            calls = {str(size): call for size, call in points.items()}
            yield timing.compare("scaling", name, calls, repeats)


def _started(num_examples: int, width: int):
    task = problems.task("mlp", hidden=(width, width))
    data = problems.images(num_examples)
    return task, data, training.init_variables(task, data, jax.random.key(0))


def _epoch(num_examples: int, width: int = 256, batch_size: int = 100) -> timing.Program:
    task, data, variables = _started(num_examples, width)
    tx = optax.sgd(0.1)
    step = training.make_step(training.supervised(task), tx)
    epoch = partial(training.run_epochs, step, num_epochs=1, batch_size=batch_size)
    state = training.init_state(variables, tx)
    return timing.program(epoch, state, data, jnp.arange(num_examples), jax.random.key(1))


def _fisher(num_examples: int, width: int = 256) -> timing.Program:
    task, data, variables = _started(num_examples, width)
    return timing.program(partial(curvature.fisher_diagonal, task), variables, data)


def _ensemble(num_examples: int, num_models: int, mesh=None) -> timing.Program:
    task, data, _ = _started(num_examples, 64)
    subsets = ensembles.random_subsets(jax.random.key(0), num_models, num_examples)
    rngs = jax.random.split(jax.random.key(1), num_models)

    def fit(data, subsets, rngs):
        keep = lambda variables, data: variables["params"]
        options = {"num_epochs": 1, "batch_size": 64, "mesh": mesh}
        return ensembles.train_ensemble(task, optax.sgd(0.1), data, subsets, rngs, keep, **options)

    return timing.program(fit, data, subsets, rngs)


def _on(num_devices: int, build, *args, **options) -> timing.Program:
    """`build`'s program, with batches spread over so many devices."""
    with jax.set_mesh(parallel.mesh(jax.devices()[:num_devices])):
        return build(*args, **options)
