"""Many small models: one program against one after another, and against plain PyTorch loops."""

from collections.abc import Callable

import jax
import numpy as np
import optax

from experiments.benchmarks import problems, timing, torch_models, torch_reference
from unlearnjax import training
from unlearnjax.training import ensembles
from unlearnjax.types import Task

RATE = 2e-3


def run(
    cases: dict[str, dict],
    num_models: tuple[int, ...] = (32,),
    num_epochs: int = 3,
    batch_size: int = 64,
    axes: bool = True,
    sample: int = 0,
    source: str | None = None,
    repeats: int = 3,
):
    """Yields a record per case and number of models, each trained on a random half.

    Args:
      cases: name -> `{'model', 'shape', 'examples'}`, and 'options' of the model.
      axes: whether our ways that are not taken by default are timed, too.
      sample: how many models PyTorch trains; the time is scaled to all. 0 is all.
      source: of the images, see `problems.examples`; if given, `shape` is not read.
    """
    for name, case in cases.items():
        data, kind = problems.examples(case["examples"], case["shape"], source)
        for count in num_models:
            calls = _calls(case, data, count, num_epochs, batch_size, axes, sample or count)
            text = f"{count} x {name}, {num_epochs} epochs of {case['examples'] // 2} {kind}"
            yield timing.compare(
                "ensemble", text, calls, repeats, counts={"models": count}, models=count
            )


def _calls(case: dict, data, count: int, num_epochs: int, batch_size: int, axes: bool, sample: int):
    subsets = ensembles.random_subsets(jax.random.key(0), count, case["examples"])
    rngs = jax.random.split(jax.random.key(1), count)
    options = {"num_epochs": num_epochs, "batch_size": min(batch_size, subsets.shape[1])}
    of_model = case.get("options", {})
    task, tx = problems.task(case["model"], **of_model), optax.adam(RATE)

    calls = ways(task, tx, data, subsets, rngs, options, axes)
    if torch_models.available():
        few = np.asarray(subsets[:sample])
        call = torch_reference.ensemble(case["model"], data, few, rate=RATE, **options, **of_model)
        calls["torch"] = timing.Sample(call, len(few) / count)
    return calls


def ways(
    task: Task, tx: optax.GradientTransformation, data, subsets, rngs, options: dict, axes=True
) -> dict[str, Callable]:
    """Models that are trained on subsets of the data: together, and with `axes` by the other axis.

    And one after another. `options` are those of `training.train`.
    """

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
    calls = {"ours": together(axis)}
    if axes:
        calls |= {f"ours, {other}": together(other), "one at a time": in_turns}
    return calls
