"""Training: the step, whole runs, evaluation, checkpoints."""

from unlearnjax.training import ensembles
from unlearnjax.training.alternate import (
    WHOLE,
    Player,
    alternate,
    deploy_players,
    init_players,
)
from unlearnjax.training.averages import AveragedState, averaged, deploy
from unlearnjax.training.epochs import run_epochs, stream_epochs
from unlearnjax.training.evaluate import (
    evaluate,
    map_batches,
    output_shapes,
    outputs,
)
from unlearnjax.training.fit import (
    Recipe,
    alternation,
    carried,
    changed,
    descent,
    fit,
    fresh,
    init_variables,
    recipe,
    train,
)
from unlearnjax.training.perturb import (
    deconvolution,
    gaussian,
    in_pixels,
    of_pixels,
    perturbed,
    pgd,
)
from unlearnjax.training.stages import Stage, retrain_from, run_stages
from unlearnjax.training.step import TrainState, init_state, make_step, supervised

__all__ = [
    "WHOLE",
    "AveragedState",
    "Player",
    "Recipe",
    "Stage",
    "TrainState",
    "alternate",
    "alternation",
    "averaged",
    "carried",
    "changed",
    "deconvolution",
    "deploy",
    "deploy_players",
    "descent",
    "ensembles",
    "evaluate",
    "fit",
    "fresh",
    "gaussian",
    "in_pixels",
    "init_players",
    "init_state",
    "init_variables",
    "make_step",
    "map_batches",
    "of_pixels",
    "output_shapes",
    "outputs",
    "perturbed",
    "pgd",
    "recipe",
    "retrain_from",
    "run_epochs",
    "run_stages",
    "stream_epochs",
    "supervised",
    "train",
]
