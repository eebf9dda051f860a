"""Linear probes of forgotten classes, on unseen examples; see `audit.linear_probe`."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from experiments.common import build
from experiments.common.measure import Bench, fresh, place
from unlearnjax import audit, parallel, tasks, training
from unlearnjax.audit.probing import COLUMNS
from unlearnjax.report import table
from unlearnjax.types import Data, Task, Variables

# Of each kind; more change little and take long.
MAX_EXAMPLES = 2000


class Probed(NamedTuple):
    """What probes look at.

    Attributes:
      data: unseen examples of the forgotten classes, then of the others, on the device.
      num_forgotten: how many are the first.
      layer: whose activations; `None` is the model's 'features'.
    """

    data: Data
    num_forgotten: int
    layer: str | None


def prepare(bench: Bench) -> Probed | None:
    """The examples, the same for every model; `None` unless whole classes are forgotten.

    Raises:
      ValueError: for a layer that the model does not run.
    """
    layer, problem = bench.config.evaluate.probe.layer, bench.problem
    if layer is not None:  # refused here, before anything is trained
        variables = jax.eval_shape(fresh, bench.task, bench.train, jax.random.key(0))
        training.output_shapes(tasks.with_features(bench.task, layer), variables, bench.held_out)
    targets = np.asarray(problem.held_out["targets"])
    kinds = problem.unseen, problem.test
    if min(map(len, kinds)) < 2 or np.isin(*(targets[rows] for rows in kinds)).any():
        return None
    rng = np.random.default_rng(bench.config.seed)
    chosen = [np.sort(rng.permutation(rows)[:MAX_EXAMPLES]) for rows in kinds]
    data = place(build.subset(problem.held_out, np.concatenate(chosen)))
    return Probed(data, len(chosen[0]), layer)


def observe(probed: Probed | None, bench: Bench, task: Task, variables: Variables) -> np.ndarray:
    """The columns' values of one model, NaN where it has no such layer, or diverged."""
    missing = np.full(len(COLUMNS), np.nan)
    if probed is None or not _has(task, variables, probed):
        return missing
    size = bench.config.evaluate.batch_size
    found = parallel.fetch(_features(task, variables, probed.data, probed.layer, size))
    found = np.asarray(found, np.float32)
    if not np.isfinite(found).all():
        return missing
    judged = audit.linear_probe(found[: probed.num_forgotten], found[probed.num_forgotten :])
    return np.array([judged["accuracy"], judged["auc"]])


def numbers(values: np.ndarray) -> table.Row:
    """What `observe` gave, by column."""
    return dict(zip(COLUMNS, values.tolist(), strict=True))


def _has(task: Task, variables: Variables, probed: Probed) -> bool:
    """Whether the model has the layer; what a method serves need not be the model it was given."""
    try:
        shown = tasks.with_features(task, probed.layer)
        return "features" in training.output_shapes(shown, variables, probed.data)
    except ValueError:
        return False


@partial(jax.jit, static_argnums=(0, 3, 4))
def _features(
    task: Task, variables: Variables, data: Data, layer: str | None, batch_size: int
) -> jax.Array:
    shown = tasks.with_features(task, layer)
    return training.outputs(shown, variables, data, batch_size=batch_size)["features"]
