"""One upper epoch of the worst-case search, against a Python loop and a training run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import problems, timing
from unlearnjax import selection, training
from unlearnjax.unlearning import objectives

SHAPE = (8, 8, 1)


def run(
    sizes: dict[str, int],
    growth: tuple[int, ...] = (),
    unrolls: tuple[int, ...] = (),
    batch_size: int = 128,
    train_epochs: int = 20,
    repeats: int = 3,
):
    """Yields a record per model of `sizes`, then how time grows with N and with the lower level."""
    for model, num_examples in sizes.items():
        calls = _calls(model, num_examples, batch_size, train_epochs)
        case = f"{model}, {num_examples} examples"
        yield timing.compare("search", case, calls, repeats, examples=num_examples)
    if growth:
        points = {str(n): _step("mlp", n, batch_size, "sign", 2) for n in growth}
        yield timing.compare("scaling", "search step, examples", points, repeats)
    for mode in ("sign", "unrolled") if unrolls else ():
        points = {str(n): _step("mlp", 2000, batch_size, mode, n) for n in unrolls}
        yield timing.compare("scaling", f"search step ({mode}), lower epochs", points, repeats)


def _problem(model: str, num_examples: int):
    task, data = problems.task(model), problems.images(num_examples, SHAPE)
    return task, data, training.init_variables(task, data, jax.random.key(0))


def _step(model: str, num_examples: int, batch_size: int, mode: str, lower_epochs: int):
    task, data, variables = _problem(model, num_examples)
    call = partial(
        selection.hypergradient,
        task,
        lower=selection.lower.random_label(),
        tx=optax.sgd(1e-3),
        mode=mode,
        lower_epochs=lower_epochs,
        batch_size=batch_size,
    )
    weights = jnp.full(num_examples, 0.1)
    return timing.program(call, variables, data, weights, jax.random.key(1))


def _calls(model: str, num_examples: int, batch_size: int, train_epochs: int):
    """Ours by sign first; each two lower epochs but for the training run."""
    task, data, variables = _problem(model, num_examples)
    host = {name: np.asarray(value) for name, value in data.items()}
    lower = selection.lower.random_label()
    labels = objectives.random_targets(jax.random.key(2), data["targets"], 10)
    host["relabelled"] = np.asarray(labels)

    @jax.jit
    def move(variables, batch, selected):
        loss = lambda p: jnp.mean(
            lower.losses(task, {**variables, "params": p}, variables, batch, selected)
        )
        slope = jax.grad(loss)(variables["params"])
        step = lambda p, g: p - 1e-3 * jnp.sign(g)
        return {**variables, "params": jax.tree.map(step, variables["params"], slope)}

    @jax.jit
    def losses(variables, batch):
        return task.loss(task.apply(variables, batch, None, False)[0], batch)

    def by_hand():
        """The same with a compiled step per batch, as one would write it."""
        model, weights = variables, np.full(num_examples, 0.1, np.float32)
        for epoch in range(2):
            order = np.random.default_rng(epoch).permutation(num_examples)
            for rows in np.array_split(order, -(-num_examples // batch_size)):
                batch = {name: value[rows] for name, value in host.items()}
                model = move(model, batch, weights[rows])
        parts = np.array_split(np.arange(num_examples), -(-num_examples // batch_size))
        each = [losses(model, {k: v[rows] for k, v in host.items()}) for rows in parts]
        return np.concatenate([np.asarray(x) for x in each])

    fit = jax.jit(
        lambda rng: (
            training.train(
                task,
                optax.sgd(0.1),
                data,
                jnp.arange(num_examples),
                rng,
                num_epochs=train_epochs,
                batch_size=batch_size,
            )[0].variables
        )
    )
    return {
        "ours": _step(model, num_examples, batch_size, "sign", 2),
        "ours, unrolled": _step(model, num_examples, batch_size, "unrolled", 2),
        "by hand": by_hand,
        f"training run of {train_epochs} epochs": partial(fit, jax.random.key(3)),
    }
