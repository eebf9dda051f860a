"""Graphs: accuracies as of any classification, and what is still to be seen of deleted edges."""

import functools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import runner
from experiments.common.evaluations import Arrays, Gap, classification, sets
from experiments.common.measure import Bench, place
from unlearnjax import audit, parallel, trees
from unlearnjax.audit import links
from unlearnjax.data import graph_requests, graphs
from unlearnjax.report import table
from unlearnjax.types import Data, Task, Variables

# Pairs of each kind that are looked at, at most.
MAX_PAIRS = 2000
PARAMETER = "parameter."
# What the average gap is over. Without edges, all deleted nodes look alike, and the membership
# attack takes either none or all of them for members: `mia_efficacy` is 0 for one oracle and 1 for
# the next.
AVERAGED = ("forget_accuracy", "retain_accuracy", "test_accuracy")


class Context(NamedTuple):
    """What is made once.

    Attributes:
      bench: the problem.
      own: what classification needs.
      pairs: `{kind: [P, 2]}` of deleted and retained edges and of pairs that never were one; empty
        where no edge is deleted.
    """

    bench: Bench
    own: Any
    pairs: dict[str, np.ndarray]


def prepare(run: runner.Run, bench: Bench) -> Context:
    """Needs no training."""
    before, after = (
        jax.tree.map(np.asarray, parallel.fetch(own["graph"]))
        for own in (bench.carried, bench.request.edited)
    )
    half = len(before["edge_mask"]) // 2
    gone = (before["edge_mask"] & ~after["edge_mask"])[:half]
    ends = np.stack([before["senders"][:half], before["receivers"][:half]], axis=1)
    pairs, rng = {}, np.random.default_rng(bench.config.seed)
    if gone.any():
        kept = graphs.pairs(after)
        number = min(MAX_PAIRS, max(gone.sum(), len(kept)))
        never = graph_requests.non_edges(before, number, rng)
        pairs = {
            "deleted": ends[gone][:MAX_PAIRS],
            "retained": rng.permutation(kept)[:MAX_PAIRS],
            "non_edges": never[~_held_out(bench, never)],
        }
    return Context(bench, classification.prepare(run, bench), pairs)


def observe(context: Context, task: Task, variables: Variables) -> Arrays:
    """As classification; `pairs.KIND`, scores of pairs, and the parameters."""
    bench = context.bench
    arrays = dict(classification.observe(context.own, task, variables))
    for kind, pairs in context.pairs.items():
        arrays[f"pairs.{kind}"] = parallel.fetch(
            _scores(task, variables, place({"pairs": pairs}), _of_pairs(bench))
        )
    names = trees.names(variables["params"])
    leaves = jax.tree.leaves(parallel.fetch(variables["params"]))
    return arrays | {
        f"{PARAMETER}{name}": np.asarray(leaf, np.float32)
        for name, leaf in zip(names, leaves, strict=True)
    }


@functools.partial(jax.jit, static_argnums=(0, 3))
def _scores(task: Task, variables: Variables, data: Data, of_pairs: bool) -> jax.Array:
    """Of a link its logit; of two nodes the log of how probably their classes are the same."""
    pairs = data["pairs"]
    if of_pairs:
        outputs, _ = task.apply(variables, {"inputs": pairs}, None, False)
        return outputs["logits"][:, 1] - outputs["logits"][:, 0]
    graph = variables["graph"]
    nodes = {"inputs": jax.numpy.arange(graph["node_mask"].shape[-1])}
    log_probs = jax.nn.log_softmax(task.apply(variables, nodes, None, False)[0]["logits"])
    return jax.nn.logsumexp(log_probs[pairs[:, 0]] + log_probs[pairs[:, 1]], axis=-1)


def numbers(context: Context, arrays: Arrays, seed: int) -> table.Row:
    """See `audit.summarise` and `audit.links`; NaN where no edge is deleted, or none predicted."""
    row = classification.numbers(context.own, arrays, seed)
    found = dict.fromkeys(("deleted_auc", "deleted_non_edge_auc", "edge_membership"), np.nan)
    scores = _scored(context, arrays)
    if scores:
        found = {
            "deleted_auc": links.deleted_auc(scores["deleted"], scores["retained"], seed=seed),
            "deleted_non_edge_auc": links.auc(scores["deleted"], scores["non_edges"]),
            "edge_membership": float(links.edge_membership(**scores, seed=seed).mean()),
        }
    return {**row, **found, "test_auc": _test_auc(context, arrays)}


def against_oracles(
    context: Context, rows: Sequence[table.Row], arrays: Sequence[Arrays]
) -> list[table.Row]:
    """As classification, but for the average gap, which is over `AVERAGED`.

    Distances of parameters and of what is said of other examples, and the published MI ratio to the
    original of the same seed, or, of further oracles, to all originals in the mean.
    """
    oracles = [i for i, row in enumerate(rows) if row["method"] == "oracle"]
    params = [{k: v for k, v in own.items() if k.startswith(PARAMETER)} for own in arrays]
    compared = classification.against_oracles(context.own, rows, arrays)

    def distances(i: int, j: int) -> dict[str, float]:
        """Of two models."""
        keys = {f"{name}_distance": f"{name}_confidence" for name in SETS}
        apart = {k: float(np.abs(arrays[i][v] - arrays[j][v]).mean()) for k, v in keys.items()}
        return {"verification_error": links.verification_error(params[i], params[j]), **apart}

    mean = {name: float(np.mean([rows[i][name] for i in oracles])) for name in AVERAGED}
    originals = {
        row["seed"]: _scored(context, own)
        for row, own in zip(rows, arrays, strict=True)
        if row["method"] == "original"
    }

    def ratio(row: table.Row, own: Arrays) -> float:
        after, seed = _scored(context, own), row["seed"]
        befores = [originals[seed]] if seed in originals else list(originals.values())
        if not (after and befores and all(befores)):
            return float("nan")
        parts = [(own["deleted"], own["retained"], own["non_edges"]) for own in befores]
        ratios = [
            links.membership_ratio(before, after["deleted"], *rest, seed=seed)
            for before, *rest in parts
        ]
        return float(np.mean(ratios))

    result = []
    for i, row in enumerate(compared):
        found = [distances(i, j) for j in oracles if j != i]
        names = found[0] if found else distances(i, i)
        means = {k: float(np.mean([own[k] for own in found])) if found else np.nan for k in names}
        means["average_gap"] = audit.average_gap(row, mean, AVERAGED)
        result.append({**row, **means, "membership_ratio": ratio(row, arrays[i])})
    return result


def _scored(context: Context, arrays: Arrays) -> dict[str, np.ndarray]:
    """`{kind: scores}`; nothing where no edge is deleted, or the model has diverged."""
    scores = {kind: arrays[f"pairs.{kind}"] for kind in context.pairs}
    return scores if all(np.isfinite(x).all() for x in scores.values()) else {}


def _held_out(bench: Bench, pairs: np.ndarray) -> np.ndarray:
    """`[P]` bool: which are edges to validate or to test with."""
    if not _of_pairs(bench):
        return np.zeros(len(pairs), bool)
    parts = bench.problem.val, bench.problem.held_out
    edges = np.concatenate([part["inputs"][part["targets"] == 1] for part in parts])
    known = set(map(tuple, np.sort(edges, axis=1).tolist()))
    return np.array([tuple(pair) in known for pair in np.sort(pairs, axis=1).tolist()], bool)


def _of_pairs(bench: Bench) -> bool:
    return np.ndim(bench.problem.train["inputs"]) == 2


def _test_auc(context: Context, arrays: Arrays) -> float:
    """Of test edges against test pairs without an edge."""
    problem, margin = context.bench.problem, arrays["test_margin"]
    if not _of_pairs(context.bench) or not np.isfinite(margin).all():
        return float("nan")
    edge = problem.held_out["targets"][problem.test] == 1
    return links.auc(margin[edge], -margin[~edge])


SETS = ("forget", "retain", "test")
_DISTANCE = "mean difference of the true class's probability to an oracle's, over oracles (an "
COLUMNS = classification.COLUMNS._replace(
    definitions={
        **classification.COLUMNS.definitions,
        **links.COLUMNS,
        "average_gap": "mean absolute difference to the oracles' mean over forget, retain and test "
        "accuracy; an oracle's own is the spread between oracles",
        "test_auc": "probability that a test edge scores higher than a test pair without an edge",
        **{f"{name}_distance": f"{_DISTANCE}oracle's to the others), {name} set" for name in SETS},
    },
    printed=(
        "forget_accuracy",
        "retain_accuracy",
        "test_accuracy",
        "test_auc",
        "deleted_auc",
        "edge_membership",
        "forget_distance",
        "test_distance",
        "verification_error",
        "average_gap",
    ),
    units=MappingProxyType(
        {
            **classification.COLUMNS.units,
            "test_auc": ("test AUC", 1, 3),
            "deleted_auc": ("deleted AUC", 1, 2),
            "edge_membership": ("edge membership", 1, 2),
            "membership_ratio": ("MI ratio", 1, 2),
            **{f"{name}_distance": (f"{name} distance", 100, 1) for name in SETS},
            "verification_error": ("verification error", 1, 0),
        }
    ),
    plain=(
        *classification.COLUMNS.plain,
        *(f"{name}_distance" for name in SETS),
        "verification_error",
    ),
)

EVALUATION = classification.EVALUATION._replace(
    prepare=prepare,
    observe=observe,
    numbers=numbers,
    against_oracles=against_oracles,
    gap=Gap(
        {"average_gap": "mean absolute difference of forget, retain and test accuracy"},
        functools.partial(audit.average_gap, names=AVERAGED),
    ),
    columns=COLUMNS,
    reproduced=(*classification.EVALUATION.reproduced, "test_auc", "deleted_auc"),
    figures=functools.partial(sets.figures, metric="accuracy"),
)
