"""Unlearning judged by populations: many originals unlearn a forget set, many oracles never had it.

A method sees the second half of the oracles at most: its hyper-parameters are chosen by them, and
oracle matching matches them. What is reported is the comparison with the first half.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.datamodel import ASKS
from experiments.common import build, ensembles, runner
from unlearnjax import audit, data, parallel, training
from unlearnjax.audit.klom import CLIP
from unlearnjax.report import table
from unlearnjax.training.ensembles import fastest_axis, over_models
from unlearnjax.types import Data, Request, Task, Variables

PARTS = ("forget", "retain", "test")
ATTACKS = ("auc", "tpr_at_0.1%", "tpr_at_1%")


class Lab(NamedTuple):
    """What all forget sets share.

    Attributes:
      config, run, task: of the experiment.
      pool: the `size` training examples, then those of the test set, `index` their position.
      size: N.
      originals: models trained on all N, leaves `[M, ...]`.
      margins: theirs, `[M, pool]`.
      attributor: name -> an attributor of the pool's logits.
      training_flops: of one model on all N.
      programs: what has been compiled and counted, by what it depends on.
    """

    config: ConfigDict
    run: runner.Run
    task: Task
    pool: Data
    size: int
    originals: Variables
    margins: np.ndarray
    attributor: Callable[[str], Any]
    training_flops: float
    programs: dict


class Outcome(NamedTuple):
    """One forget set.

    Attributes:
      rows: one per method and point of its space, and of 'oracle' and 'original'.
      margins: of the chosen point of each method, `[M, pool]`; of 'oracle', of the reference.
      klom: the same, `[pool]` against the reference.
      scores: the same, of U-LIRA on the forget set: of the unlearned models and of the oracles.
    """

    rows: list[table.Row]
    margins: dict[str, np.ndarray]
    klom: dict[str, np.ndarray]
    scores: dict[str, tuple[np.ndarray, np.ndarray]]


def points(config: ConfigDict, method: str) -> list[dict[str, Any]]:
    """All combinations of the method's space."""
    return build.grid(config.spaces[method].to_dict())


def num_models(config: ConfigDict) -> int:
    """How many models a forget set takes, trained or unlearned."""
    tried = sum(len(points(config, method)) for method in config.methods)
    return config.num_originals * (2 + tried)


def judge(lab: Lab, name: str, forget: np.ndarray) -> Outcome:
    """Trains the oracles of a forget set, unlearns it by every method, compares."""
    config, run = lab.config, lab.run
    parts = _parts(lab, forget)
    kept = jnp.asarray(parts["retain"])
    request = Request(*({k: v[i] for k, v in lab.pool.items()} for i in (forget, kept)))
    subsets = np.broadcast_to(parts["retain"], (config.num_originals, len(kept)))
    margin = ensembles.margins(lab.task)
    train = partial(ensembles.train, config, run, lab.task, lab.pool)
    folder = runner.folder(name)
    reference = train(f"{folder}_reference", subsets, margin)["margin"]
    others = train(f"{folder}_oracle", subsets, ensembles.with_models(margin))
    oracles = ensembles.stacked(others, lab.originals)

    found = {"oracle": [({}, others["margin"])], "original": [({}, lab.margins)]}
    for method in config.methods:
        compute = program(lab, method)
        found[method] = []
        for i, values in enumerate(points(config, method)):
            row = f"{folder}_{method}_{i}"
            call = partial(compute, row, values, oracles, request)
            margins = ensembles.in_chunks(
                run, row, config.num_originals, config.ensemble.chunk, call
            )
            found[method].append((values, _finite(margins["margin"])))

    outcome = Outcome([], {"reference": reference}, {}, {})
    membership = partial(_membership, others["margin"], parts)
    of_reference = membership(reference)
    mean = lambda columns: float(np.mean([columns[f"klom_{part}"] for part in PARTS]))
    for method, tried in found.items():
        kloms = [_klom(margins, reference) for _, margins in tried]
        rows = []
        for (values, margins), klom in zip(tried, kloms, strict=True):
            columns = _columns(klom, parts)
            chosen_by = _columns(_klom(margins, others["margin"]), parts)
            rows.append(
                {
                    "method": method,
                    "forget_set": name,
                    **values,
                    "chosen": False,
                    "selection_klom": mean(chosen_by),
                    **columns,
                    "klom": mean(columns),
                    "effect": _effect(margins, reference, lab.margins, forget),
                    "compute": compute_of(lab, method, request, values),
                }
            )
        best = int(np.argmin([row["selection_klom"] for row in rows]))
        margins = tried[best][1]
        scores = audit.u_lira_scores(margins[:, forget], reference[:, forget])
        attacks = _attacks(scores, (membership(margins), of_reference))
        rows[best] |= {"chosen": True, **attacks}
        outcome.rows.extend(rows)
        outcome.margins[method] = margins
        outcome.klom[method] = kloms[best]
        outcome.scores[method] = scores
    return outcome


def compute_of(lab: Lab, method: str, request: Request, values: dict[str, Any]) -> float:
    """What a request costs, as a share of a training run; of an oracle, its own training."""
    if method in lab.config.methods:
        return flops(lab, method, values, request) / lab.training_flops
    return data.num_examples(request.retain) / lab.size if method == "oracle" else 0.0


def program(lab: Lab, method: str):
    """`(name, values, oracles, request, numbers) -> {'margin': [chunk, pool]}`: unlearned models.

    Forget sets of one size and values that differ in traced fields alone share a compiled program.
    """
    config, programs, mesh = lab.config, lab.programs, parallel.current()
    axis = fastest_axis(lab.task, lab.pool)

    def compiled(static):
        def one(member, values, memory, request, pool):
            variables, oracle, rng = member
            unlearner = make(lab, method, request, oracle, {**static, **values})
            init_rng, rng = jax.random.split(rng)
            if method not in ASKS:
                train_data = {k: v[: lab.size] for k, v in pool.items()}
                variables, memory = unlearner.init(init_rng, lab.task, variables, train_data)
            variables, _ = unlearner.update(rng, lab.task, variables, memory, request)
            served = unlearner.serve(lab.task)
            return {"margin": training.evaluate(served, variables, pool)["margin"]}

        return jax.jit(partial(over_models, one, axis=axis, mesh=mesh))

    def compute(name, values, oracles, request, numbers):
        static, traced = build.split_values(values)
        key = (method, tuple(static.items()))
        if key not in programs:
            programs[key] = compiled(static)
        models, own_oracles = jax.tree.map(lambda x: x[numbers], (lab.originals, oracles))
        memory = lab.attributor(ASKS[method]) if method in ASKS else ()
        rngs = ensembles.keys(config, name, jnp.asarray(numbers))
        traced = {k: jnp.float32(v) for k, v in traced.items()}
        members = (models, own_oracles, rngs)
        return programs[key](members, traced, memory, request, lab.pool)

    return compute


def make(lab: Lab, method: str, request: Request, oracle: Variables, values: dict[str, Any]):
    """The unlearner; the matching ones take what no config can hold."""
    num_retain = data.num_examples(request.retain)
    return _made(lab.config, method, lab.size, num_retain, oracle, values)


def _made(config: ConfigDict, method: str, size: int, num_retain: int, oracle: Variables, values):
    given = {}
    if method == "oracle_matching":
        given = {"oracle": oracle}
    elif method in ASKS:  # the attributor is there already, nothing is trained
        given = {"train_tx": build.recipe(config, size)}
    return build.unlearner(method, config, num_retain, {**values, **given})


def validate(config: ConfigDict, size: int) -> None:
    """Raises `ValueError` for a setting that a method refuses, before anything is computed."""
    for method in config.methods:
        for values in points(config, method):
            _made(config, method, size, size, {}, values)


def flops(lab: Lab, method: str, values: dict[str, Any], request: Request) -> float:
    """Floating-point operations of one request; they depend on shapes alone."""
    static, programs = build.split_values(values)[0], lab.programs
    num_forget = data.num_examples(request.forget)
    key = "_".join(map(str, ("flops", method, num_forget, *static.values())))

    def compute():
        variables = jax.tree.map(lambda x: jnp.asarray(x[0]), lab.originals)
        unlearner = make(lab, method, request, variables, values)
        rng = jax.random.key(0)
        if method in ASKS:
            memory = lab.attributor(ASKS[method])
        else:
            train_data = {k: v[: lab.size] for k, v in lab.pool.items()}
            init = lambda: unlearner.init(rng, lab.task, variables, train_data)[1]
            memory = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(init))
        update = lambda v, m, r: unlearner.update(rng, lab.task, v, m, r)[0]
        return {"flops": audit.flops(update, variables, memory, request)}, {}

    if key not in programs:
        programs[key] = lab.run.row(key, compute)[0]["flops"]
    return programs[key]


def _parts(lab: Lab, forget: np.ndarray) -> dict[str, np.ndarray]:
    everything = np.arange(lab.size)
    test = np.arange(lab.size, len(lab.pool["targets"]))
    return {"forget": forget, "retain": np.setdiff1d(everything, forget), "test": test}


def _finite(margins: np.ndarray) -> np.ndarray:
    """A diverged model knows nothing: as far off as KLoM looks."""
    return np.nan_to_num(margins, nan=-CLIP, posinf=CLIP, neginf=-CLIP)


def _klom(margins: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():  # the report warns of few models, once
        warnings.filterwarnings("ignore", message="KLoM wants")
        return audit.klom(margins, oracle)


def _columns(klom: np.ndarray, parts) -> dict[str, float]:
    """Mean and 95th percentile over the examples of each part."""
    columns = {}
    for part, indices in parts.items():
        columns[f"klom_{part}"] = float(klom[indices].mean())
        columns[f"klom_{part}_95"] = float(np.percentile(klom[indices], 95))
    return columns


def _effect(margins, oracle, original, forget) -> float:
    """How much of the oracles' change on the forget set there is, by least squares; 1 is ideal."""
    change, wanted = ((x.mean(0) - original.mean(0))[forget] for x in (margins, oracle))
    return float(change @ wanted / np.maximum(wanted @ wanted, 1e-12))


def _membership(others: np.ndarray, parts, margins: np.ndarray) -> np.ndarray:
    """`[M F]`: RMIA's scores of the forget set, the second half of the oracles its reference."""
    forget, test = parts["forget"], parts["test"]
    confidence = lambda x: 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -50, 50)))
    known = confidence(others[:, forget]), confidence(others[:, test])
    own = confidence(margins)
    return np.concatenate([audit.rmia(m[forget], m[test], *known) for m in own])


def _attacks(u_lira, rmia) -> dict[str, float]:
    """Rates of both attacks, from scores of the unlearned models and of the oracles."""
    found = audit.rates(*u_lira)
    columns = {f"u_lira_{name}": found[name] for name in ("accuracy", *ATTACKS)}
    found = audit.rates(*rmia)
    return columns | {f"rmia_{name}": found[name] for name in ATTACKS}
