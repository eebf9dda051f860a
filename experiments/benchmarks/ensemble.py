"""Many small models: one program against one after another, and against plain PyTorch loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import problems, timing
from unlearnjax import training
from unlearnjax.training import ensembles

SHAPE, RATE = (8, 8, 1), 2e-3


def run(num_models=32, num_examples=1000, num_epochs=5, batch_size=64, repeats=3):
    """Yields one record per model: every alternative trains `num_models` on random halves."""
    data = problems.images(num_examples, SHAPE)
    subsets = ensembles.random_subsets(jax.random.key(0), num_models, num_examples)
    rngs = jax.random.split(jax.random.key(1), num_models)
    options = {"num_epochs": num_epochs, "batch_size": min(batch_size, subsets.shape[1])}
    for model in ("mlp", "convnet"):
        task, tx = problems.task(model), optax.adam(RATE)

        def together(axis, task=task, tx=tx):
            keep = lambda variables, data: variables["params"]
            fit = partial(ensembles.train_ensemble, task, tx, data, keep=keep, axis=axis, **options)
            return jax.jit(lambda subsets, rngs: fit(subsets=subsets, rngs=rngs))

        one = jax.jit(
            lambda rows, rng, task=task, tx=tx: training.train(
                task, tx, data, rows, rng, **options
            )[0].variables["params"]
        )

        def in_turns(one=one):
            return [one(rows, rng) for rows, rng in zip(subsets, rngs, strict=True)]

        calls = {
            "ensemble (vmap)": partial(together("vmap"), subsets, rngs),
            "ensemble (map)": partial(together("map"), subsets, rngs),
            "one at a time": in_turns,
        }
        reference = torch_loop(model, data, np.asarray(subsets), **options)
        if reference is not None:
            calls["torch loop"] = reference
        record = timing.compare("ensemble", f"{num_models} x {model}", calls, repeats)
        rates = {name: round(num_models / s, 2) for name, s in record["seconds"].items()}
        yield {**record, "models_per_second": rates}


def torch_loop(model: str, data, subsets, *, num_epochs: int, batch_size: int):
    """The same training in eager PyTorch, one model after another; `None` without torch."""
    try:
        import torch
    except ImportError:
        return None
    from torch import nn

    inputs = torch.from_numpy(np.asarray(data["inputs"]).transpose(0, 3, 1, 2).copy())
    targets = torch.from_numpy(np.array(data["targets"])).long()

    def build():
        if model == "mlp":
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(SHAPE[0] * SHAPE[1], 256),
                nn.ReLU(),
                nn.Linear(256, 256),
                nn.ReLU(),
                nn.Linear(256, 10),
            )
        side = SHAPE[0] // 4
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * side * side, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def call():
        for rows in subsets:
            network = build()
            optimizer = torch.optim.Adam(network.parameters(), RATE)
            rows = torch.from_numpy(np.array(rows)).long()
            for _ in range(num_epochs):
                for batch in rows[torch.randperm(len(rows))].split(batch_size):
                    optimizer.zero_grad()
                    loss = nn.functional.cross_entropy(network(inputs[batch]), targets[batch])
                    loss.backward()
                    optimizer.step()
        return jnp.zeros(())

    return call
