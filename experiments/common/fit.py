"""A training run with progress, checkpoints and exact resume."""

import functools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.unlearn import LEARNED
from experiments.common.runner import Run
from experiments.common.workdir import differences
from unlearnjax import audit, parallel, training
from unlearnjax.audit import Cost
from unlearnjax.data import corruption
from unlearnjax.training.checkpoints import Checkpoints
from unlearnjax.training.fit import Training
from unlearnjax.types import Data, Task, Variables

# What a model depends on beside `LEARNED`, where the config has it.
OF_SOME = ("validation_fraction", "task_options", "base")


class Fit(NamedTuple):
    """A finished training run: the model, per-epoch means, the cost of the whole run."""

    variables: Variables
    history: dict[str, np.ndarray]
    cost: Cost


class Fitter(NamedTuple):
    """How models of one kind are trained.

    Attributes:
      fit: `(run, name, rng) -> Fit`.
      prepare: `(run, name)`: compiles, ahead of the first call and in any thread.
    """

    fit: Callable[[Run, str, jax.Array], Fit]
    prepare: Callable[[Run, str], None]


def make_fit(
    task: Task,
    tx: Training,
    data: Data,
    indices: jax.Array,
    *,
    num_epochs: int,
    batch_size: int,
    checkpoint_every: int,
    shard_parameters: bool = False,
    start: Variables | None = None,
) -> Fitter:
    """`training.fit`, one compiled epoch after another.

    `start`, such as published weights, lies where training does: replicated under a mesh.
    With `shard_parameters` the model and its optimizer state are split over the devices of the
    mesh, see `parallel.split_shardings`; otherwise every device has a copy.

    The epoch is compiled once for all seeds. Killed at any moment and called again with the same
    arguments, the run goes on from its last checkpoint to bit-identical variables (on CPU).
    """
    recipe = training.recipe(task, tx)

    def epoch(state, data, indices, rng):
        return training.run_epochs(
            recipe.step,
            state,
            data,
            indices,
            rng,
            num_epochs=1,
            batch_size=batch_size,
        )

    def fresh(rng, given):
        # Copies: an epoch reuses the buffers of its state, which are not those of other seeds.
        return recipe.start(data, rng, jax.tree.map(jnp.copy, given))

    placed, of_epoch = {}, {}
    mesh = parallel.current()
    if shard_parameters and mesh is not None:
        shardings = parallel.split_shardings(jax.eval_shape(fresh, jax.random.key(0), start), mesh)
        placed = {"out_shardings": shardings}
        of_epoch = {"out_shardings": (shardings, None)}
    init = jax.jit(fresh, **placed)

    @functools.cache
    def compiled_epoch():
        args = (init(jax.random.key(0), start), data, indices, jax.random.key(0))
        return audit.compile_costed(epoch, *args, donate_argnums=(0,), **of_epoch)

    def prepare(run: Run, name: str) -> None:
        with run.compiling(name):
            compiled_epoch()

    def fit(run: Run, name: str, rng: jax.Array) -> Fit:
        state = init(rng, start)
        metrics = jax.eval_shape(epoch, state, data, indices, rng)[1]
        carried = {
            "state": state,
            "history": {metric: np.full(num_epochs, np.nan, np.float32) for metric in metrics},
            "seconds": np.zeros(()),
            "cost": np.zeros(3),
        }
        with Checkpoints(run.workdir / "checkpoints" / name) as checkpoints:
            first = checkpoints.latest_step() or 0
            if first:
                carried = checkpoints.restore(carried)
            run.advance(name, first, resumed=first > 0)
            history = {k: np.array(v) for k, v in carried["history"].items()}
            state, seconds, cost = carried["state"], float(carried["seconds"]), carried["cost"]
            for done in range(first + 1, num_epochs + 1):
                prepare(run, name)
                (state, means), one = audit.timed(compiled_epoch(), state, data, indices, rng)
                seconds += one.seconds
                cost = np.array([one.compile_seconds, one.flops, one.peak_bytes])
                means = parallel.fetch(means)
                _stop_if_not_finite(name, done, means, checkpoints.latest_step())
                for metric, value in means.items():
                    history[metric][done - 1] = value[0]
                if done % checkpoint_every == 0 or done == num_epochs:
                    carried = {
                        # Copies: the next epoch reuses the buffers while these are being written.
                        "state": jax.tree.map(jnp.copy, state),
                        "history": {k: v.copy() for k, v in history.items()},
                        "seconds": np.array(seconds),
                        "cost": cost,
                    }
                    checkpoints.save(done, carried)
                run.advance(name)
        run.events(name, {f"train/{metric}": values for metric, values in history.items()})
        compile_seconds, flops, peak = (float(x) for x in cost)
        total = Cost(seconds, compile_seconds, flops * num_epochs, peak)
        return Fit(recipe.deploy(state), history, total)

    return Fitter(fit, prepare)


def loss_curves(history: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The loss by epoch `[num_epochs]` of every player; of a training without, that of ''.

    NaN in epochs in which a player only rests.
    """
    split = {name.rpartition(".")[::2]: values for name, values in history.items()}
    return {player: values for (player, metric), values in split.items() if metric == "loss"}


def take_originals(run: Run, names: Sequence[str], other: Path) -> None:
    """Copies trained originals of the run in the work directory `other`, but those already here.

    Those it lacks are left to be trained, as those it has not finished are to be gone on with.

    Args:
      run: where to.
      names: of the originals.
      other: where from.

    Raises:
      ValueError: if `other` holds no such run, none of the originals, or what it learned is not
        what `run` learns.
    """
    folder = run.workdir / "checkpoints"
    here = [name for name in names if (folder / name).exists()]
    if here != list(names):
        _copy(run, _trained(run, names, other), other)
    parallel.sync("originals taken")


def take_stages(run: Run, names: Sequence[str], other: Path) -> None:
    """Copies what else was trained beside originals that were taken: a base, judges.

    Those that the work directory `other` lacks, or whose judges are others, are trained anew.
    """
    try:
        learned = json.loads((other / "config.json").read_text())
    except (OSError, json.JSONDecodeError):
        return
    judges = [config.get("evaluate", {}).get("judges") for config in (learned, run.config)]
    alike = [name for name in names if "judge" not in name or judges[0] == judges[1]]
    _copy(run, [name for name in alike if (other / "checkpoints" / name).is_dir()], other)
    parallel.sync("stages taken")


def _copy(run: Run, names: Sequence[str], other: Path) -> None:
    """Checkpoints that are not here yet."""
    folder = run.workdir / "checkpoints"
    if not parallel.is_main_process():
        return
    folder.mkdir(exist_ok=True)
    for name in (name for name in names if not (folder / name).exists()):
        partial = run.workdir / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(other / "checkpoints" / name, partial)
        os.replace(partial, folder / name)


def _trained(run: Run, names: Sequence[str], other: Path) -> list[str]:
    """Those of `names` that the run in `other` has trained."""
    try:
        learned = json.loads((other / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"originals must be the --workdir of a run, got {other}") from error
    changed = other_training(learned, run.config)
    if changed:
        raise ValueError(f"originals of {other} learned something else: {'; '.join(changed[:5])}")
    found = [name for name in names if (other / "checkpoints" / name).is_dir()]
    if not found:
        raise ValueError(f"originals: {other / 'checkpoints'} has none of {', '.join(names)}")
    return found


def other_training(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """In what the originals of two configurations differ, one line each; empty if in nothing."""

    def learned(config):
        kept = {name: config.get(name) for name in (*LEARNED, *OF_SOME)}
        # What is unset, older configurations do not have.
        kept["train"] = {
            k: v for k, v in config["train"].items() if k != "checkpoint_every" and v is not None
        }
        forget = config.get("forget") or ""
        # The training data itself, or the graph that is trained with.
        corrupts = forget.partition(":")[0] in corruption.KINDS or ":adversarial:" in forget
        return kept | {"forget": forget if corrupts else "of clean data"}

    return differences(learned(one), learned(two))


def _stop_if_not_finite(name: str, epoch: int, means: dict, last_good: int | None) -> None:
    def rested(metric: str) -> bool:
        """Whether there is nothing that it could be the mean of."""
        return not np.any(means.get(f"{metric.rpartition('.')[0]}.weight", 1))

    finite = {metric: np.isfinite(value).all() for metric, value in means.items()}
    bad = [metric for metric in means if not finite[metric] and not rested(metric)]
    if bad:
        kept = f"epoch {last_good} is the last good checkpoint" if last_good else "none saved yet"
        raise FloatingPointError(
            f"training {name}: {', '.join(bad)} became non-finite in epoch {epoch} ({kept}); "
            "lower train.learning_rate"
        )
