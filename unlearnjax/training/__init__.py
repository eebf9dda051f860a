"""Training: the step, whole runs, evaluation, checkpoints."""

from unlearnjax.training import ensembles
from unlearnjax.training.epochs import run_epochs, stream_epochs
from unlearnjax.training.evaluate import (
    evaluate,
    map_batches,
    output_shapes,
    outputs,
)
from unlearnjax.training.fit import (
    Recipe,
    carried,
    descent,
    fit,
    fresh,
    init_variables,
    recipe,
    train,
)
from unlearnjax.training.step import TrainState, init_state, make_step, supervised

__all__ = [
    "Recipe",
    "TrainState",
    "carried",
    "descent",
    "ensembles",
    "evaluate",
    "fit",
    "fresh",
    "init_state",
    "init_variables",
    "make_step",
    "map_batches",
    "output_shapes",
    "outputs",
    "recipe",
    "run_epochs",
    "stream_epochs",
    "supervised",
    "train",
]
