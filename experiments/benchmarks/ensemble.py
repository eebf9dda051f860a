"""Many small models: one program against one after another, and against plain PyTorch loops."""

import jax
import numpy as np
import optax

from experiments.benchmarks import problems, timing, torch_reference
from unlearnjax import training
from unlearnjax.training import ensembles

RATE = 2e-3


def run(
    cases: dict[str, dict],
    num_models: tuple[int, ...] = (32,),
    num_epochs: int = 3,
    batch_size: int = 64,
    repeats: int = 3,
):
    """Yields a record per case and number of models, each trained on a random half.

    Args:
      cases: name -> `{'model', 'shape', 'examples'}`, and 'options' of the model.
    """
    for name, case in cases.items():
        data = problems.images(case["examples"], case["shape"])
        for count in num_models:
            calls = _calls(case, data, count, num_epochs, batch_size)
            text = f"{count} x {name}, {num_epochs} epochs of {case['examples'] // 2} examples"
            record = timing.compare("ensemble", text, calls, repeats, models=count)
            rates = {n: round(count / s, 2) for n, s in record["seconds"].items()}
            yield {**record, "models_per_second": rates}


def _calls(case: dict, data, count: int, num_epochs: int, batch_size: int):
    subsets = ensembles.random_subsets(jax.random.key(0), count, case["examples"])
    rngs = jax.random.split(jax.random.key(1), count)
    options = {"num_epochs": num_epochs, "batch_size": min(batch_size, subsets.shape[1])}
    of_model = case.get("options", {})
    task, tx = problems.task(case["model"], **of_model), optax.adam(RATE)

    def together(axis):
        def fit(data, subsets, rngs):
            keep = lambda variables, data: variables["params"]
            return ensembles.train_ensemble(
                task, tx, data, subsets, rngs, keep, axis=axis, **options
            )

        return timing.program(fit, data, subsets, rngs)

    one = jax.jit(
        lambda data, rows, rng: training.train(task, tx, data, rows, rng, **options)[0].variables
    )

    def in_turns():
        return [one(data, rows, rng) for rows, rng in zip(subsets, rngs, strict=True)]

    axis = ensembles.fastest_axis(task, data)
    other = "map" if axis == "vmap" else "vmap"
    calls = {
        "ours": together(axis),
        f"ours, {other}": together(other),
        "one at a time": in_turns,
    }
    if torch_reference.available():
        calls["torch"] = torch_reference.ensemble(
            case["model"], data, np.asarray(subsets), rate=RATE, **options, **of_model
        )
    return calls
