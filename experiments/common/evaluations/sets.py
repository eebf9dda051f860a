"""What evaluations of supervised tasks share: numbers per example of five sets, and figures."""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.common import build
from experiments.common.measure import Bench
from unlearnjax import parallel, training
from unlearnjax.report import plots, table
from unlearnjax.types import Data, Task, Variables

SETS = ("forget", "retain", "val", "test", "unseen")
REQUIRED_FINITE = ("forget_loss", "retain_loss", "val_loss")
# Of columns that such tasks share, see `table.Columns`.
UNITS = {
    "mia": ("MIA %", 100, 1),
    "average_gap": ("avg. gap", 100, 1),
    "gap": ("gap", 100, 1),
    "anamnesis": ("anamnesis", 1, 2),
}
LOSSES = {f"{name}_loss": f"mean loss of the {name} set" for name in SETS}


def observe(bench: Bench, task: Task, variables: Variables) -> dict[str, np.ndarray]:
    """`<set>_<metric>` `[N]` of every example of each of `SETS`: the loss, and the task's own."""
    size, problem = bench.config.evaluate.batch_size, bench.problem
    on_train, on_val, on_held_out = (
        parallel.fetch(_evaluate(task, variables, part, batch_size=size))
        for part in (bench.train, bench.val, bench.held_out)
    )
    per_set = {
        "forget": build.subset(on_train, problem.forget),
        "retain": build.subset(on_train, problem.retain),
        "val": on_val,
        "test": build.subset(on_held_out, problem.test),
        "unseen": build.subset(on_held_out, problem.unseen),
    }
    return {
        f"{name}_{metric}": _storable(values)
        for name, metrics in per_set.items()
        for metric, values in metrics.items()
    }


def per_set(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """`{set: {metric: [N]}}` of what `observe` gave."""
    result = {name: {} for name in SETS}
    for column, values in arrays.items():
        name, _, metric = column.partition("_")
        if name in result:
            result[name][metric] = values
    return result


def logits(bench: Bench, task: Task, variables: Variables, softmax: bool = False) -> np.ndarray:
    """The model's predictions on the forget set `[N, C]`; with `softmax`, probabilities."""
    size = bench.config.evaluate.batch_size
    found = _logits(task, variables, bench.request.forget, size)
    return _storable(parallel.fetch(jax.nn.softmax(found) if softmax else found))


def average_gap(row: table.Row, ideal: table.Row, names: Sequence[str]) -> float:
    """Mean absolute difference over `names`, without those in which the ideal is NaN.

    So without what makes no sense of the forget set; NaN if nothing is left.
    """
    gaps = [abs(row[name] - ideal[name]) for name in names if not np.isnan(ideal[name])]
    return float(np.mean(gaps)) if gaps else float("nan")


def figures(
    bench: Bench,
    summary: Sequence[table.Row],
    arrays: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    *,
    metric: str,
    scale: float = 100,
    unit: str = "points",
) -> dict[str, tuple[str, Figure]]:
    """Of a metric that `observe` gave: gaps, the trade-off, losses, shares of the Fisher trace."""
    losses = {
        method: {
            name: np.concatenate([own[f"{name}_loss"] for own in seeds]) for name in plots.SETS
        }
        for method, seeds in arrays.items()
    }
    found = {
        f"{metric}_gaps": (
            f"{metric.title()} minus the oracle's; bars are methods with their spread over seeds, "
            "the grey band is the oracle's own spread.",
            plots.gaps(summary, metric, scale, unit),
        ),
        "losses": (
            "Loss per example, all seeds: a method (filled) that forgets exactly covers the oracle "
            "(outline).",
            plots.loss_histograms(losses),
        ),
        "trade_off": (
            "Forgetting against utility against time: the lower left corner is ideal, dark is "
            "cheap.",
            plots.trade_off(summary, metric, scale, unit),
        ),
    }
    originals = [own for own in arrays["original"] if "fisher_shares" in own]
    if originals:
        found["fisher_shares"] = (
            "Which forgotten examples hold the importance that SSD goes by: each one's share of "
            "the forget set's Fisher trace under the originals. Where few hold most, they decide.",
            plots.fisher_shares(
                [own["fisher_shares"] for own in originals],
                [own["forget_loss"] for own in originals],
            ),
        )
    return found


def _storable(values: np.ndarray) -> np.ndarray:
    """Types that .npz does not know, such as bfloat16, as float32."""
    values = np.asarray(values)
    return values if values.dtype.kind in "biuf" else values.astype(np.float32)


_evaluate = jax.jit(training.evaluate, static_argnums=0, static_argnames="batch_size")


@partial(jax.jit, static_argnums=(0, 3))
def _logits(task: Task, variables: Variables, data: Data, batch_size: int) -> jax.Array:
    return training.outputs(task, variables, data, batch_size=batch_size)["logits"]
