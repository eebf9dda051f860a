"""Training: the step, whole runs, evaluation, checkpoints."""

from unlearnjax.training import ensembles
from unlearnjax.training.evaluate import (
    evaluate,
    map_batches,
    output_shapes,
    outputs,
)
from unlearnjax.training.step import TrainState, init_state, make_step, supervised
from unlearnjax.training.train import (
    carried,
    changed,
    init_variables,
    run_epochs,
    stream_epochs,
    train,
)

__all__ = [
    "TrainState",
    "carried",
    "changed",
    "ensembles",
    "evaluate",
    "init_state",
    "init_variables",
    "make_step",
    "map_batches",
    "output_shapes",
    "outputs",
    "run_epochs",
    "stream_epochs",
    "supervised",
    "train",
]
