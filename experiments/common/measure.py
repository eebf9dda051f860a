"""From models to numbers: training, forgetting and evaluating one problem, each step costed."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common import build, evaluations, kinds, runner
from experiments.common.fit import Fit, Fitter, make_fit
from unlearnjax import audit, curvature, parallel, training, trees
from unlearnjax import data as data_lib
from unlearnjax.types import Data, Request, Task, Unlearner, Variables

BASE = "base"  # the name of its checkpoint


class Bench(NamedTuple):
    """A problem on the device, with what is asked of every unlearner.

    Attributes:
      config, problem, task: what is learned.
      train, val, held_out: as in the problem, placed.
      request: forget, retain and validation data, placed.
      requests: what unlearners are asked one after another; none: that request.
      evaluation: how its models are judged.
      relearn: `(task, variables, target) -> steps`, compiled once per task.
      start: what training starts from: published weights (`build.start`) or a base (`based`), and
        what is carried.
      carried: collections that originals carry, placed; no model is made without them.
      base: the whole model that `start` is of, see `based`.
    """

    config: ConfigDict
    problem: build.Problem
    task: Task
    train: Data
    val: Data
    held_out: Data
    request: Request
    evaluation: evaluations.Evaluation
    relearn: Callable
    start: Variables | None = None
    carried: Variables | None = None
    requests: tuple[Request, ...] = ()
    base: Variables | None = None


def bench(config: ConfigDict, problem: build.Problem) -> Bench:
    """Puts the problem on the device (or on all devices of the mesh)."""
    task = build.task(config, problem.dataset)
    graph, edited = (on_devices(own) for own in (problem.carried, problem.edited))
    start = {**(build.start(config, problem.dataset) or {}), **(graph or {})} or None
    train, val, held_out = (place(d) for d in (problem.train, problem.val, problem.held_out))
    carried = training.carried(task, train, start) if start else None
    forget = place(build.subset(problem.train, problem.forget))
    retain = place(build.subset(problem.train, problem.retain))
    options = config.evaluate.relearn
    few = place(build.subset(problem.train, problem.forget[: options.num_examples]))
    tx = build.optimizer(config.train.optimizer, options.learning_rate)
    evaluation = evaluations.of(config)

    @functools.partial(jax.jit, static_argnums=0)
    def relearn(task, variables, target):
        return audit.relearn_time(
            task,
            variables,
            few,
            target,
            tx,
            runner.key(config.seed, "relearn"),
            metric=evaluation.relearn.metric,
            max_steps=options.max_steps,
        )

    request = Request(forget, retain, val, edited=edited)
    asked, requests = kinds.of(config).asked, ()
    if asked is not None:
        requests = tuple(
            Request(place(own), place(build.subset(problem.train, left)), val)
            for own, left in asked(config, problem.dataset, problem.train)
        )
        if len(requests) == 1:
            (request,), requests = requests, ()
    parts = config, problem, task, train, val, held_out, request
    return Bench(*parts, evaluation, relearn, start, carried, requests)


def based(bench: Bench, run: runner.Run) -> Bench:
    """The bench whose models start from a base, trained here once as `config.base` says.

    Itself where the config has no base. A base learns other data, so that it has seen nothing of
    what is forgotten, but for the pair of a grid of styles, which learns all images; originals,
    oracles and retraining start from the same one.
    """
    config, base = bench.config, bench.config.get("base")
    if base is None:
        return bench
    kind = kinds.of(config)
    data = place(kind.base(config, run.data_dir))
    task = kind.base_task(config, bench.problem.dataset, bench.task)
    own = {"task": base.get("task", config.task), "train": base.train}
    own = ConfigDict({**own, "task_options": base.task_options})
    indices = np.arange(data_lib.num_examples(data))
    run.extend(base.train.num_epochs)
    fit = fitter(own, task, data, indices).fit(run, BASE, runner.key(config.seed, BASE))
    return bench._replace(start=kind.from_base(fit.variables), base=fit.variables)


def place(data):
    """Arrays on the device, or on all devices of the mesh; what it cannot hold stays behind."""
    return on_devices(data_lib.numeric(data) if isinstance(data, Mapping) else data)


def on_devices(tree):
    """The arrays of any tree, placed."""
    mesh = parallel.current()
    return jax.device_put(tree) if mesh is None else parallel.replicate(tree, mesh)


def oracle_start(bench: Bench) -> Variables | None:
    """What oracles train from: as originals, but with what the request edits in its place."""
    return {**(bench.start or {}), **(bench.request.edited or {})} or None


def fitter(
    config: ConfigDict,
    task: Task,
    train: Data,
    indices: np.ndarray,
    start: Variables | None = None,
) -> Fitter:
    """Training on those examples as `config.train` says, from `start` if given; resumable."""
    return make_fit(
        task,
        build.recipe(config, len(indices)),
        train,
        place(indices),
        num_epochs=config.train.num_epochs,
        batch_size=config.train.batch_size,
        checkpoint_every=config.train.checkpoint_every,
        shard_parameters=config.train.get("shard_parameters", False),
        start=start,
    )


def fit(
    bench: Bench, run: runner.Run, name: str, fitter: Fitter, seeds: Iterable[int]
) -> dict[int, Fit]:
    """A model per seed."""
    return {
        seed: fitter.fit(run, f"{name}_seed{seed}", runner.key(bench.config.seed, name, seed))
        for seed in seeds
    }


def perturbed(variables: Variables, rng: jax.Array, size: float) -> Variables:
    """The model with every parameter moved at random by about `size` of its own size.

    What another processor's rounding does to a trained model, for methods that notice. Of types
    that have fewer digits, by what rounds in them; integers stay.
    """
    return {**variables, "params": _moved(variables["params"], rng, size)}


@functools.partial(jax.jit, static_argnums=2)
def _moved(params, rng: jax.Array, size: float):
    leaves, treedef = jax.tree.flatten(params)

    def moved(key, x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        relative = max(size, float(jnp.finfo(x.dtype).eps)) * jax.random.normal(key, x.shape)
        return (x * (1 + relative)).astype(x.dtype)

    keys = jax.random.split(rng, len(leaves))
    return treedef.unflatten(map(moved, keys, leaves))


def validate(forgetters: Mapping[str, "Forgetter"]) -> None:
    """Traces them without computing anything, so that what they refuse comes up first.

    Raises:
      ValueError: that names every method that refuses, and why.
    """
    refused = {}
    for name, forgetter in forgetters.items():
        try:
            forgetter.trace()
        except ValueError as error:
            refused[name] = str(error)
    if refused:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in refused.items()))


class Forgetter(NamedTuple):
    """An unlearner at work.

    Attributes:
      forget: `(rng, variables, values, after) -> (unlearned variables, cost columns)`; where there
        are several requests, `after` is called with the model after each but the last.
      trace: traces its programs for no `values`, which computes nothing.
      prepare: compiles what was traced, or is traced now, ahead of the first call and in any
        thread.
    """

    forget: Callable
    trace: Callable[[], None]
    prepare: Callable[[], None]


def forgetter(
    bench: Bench,
    make: Callable[[Mapping[str, jax.Array]], Unlearner],
    compiling: Callable[[], AbstractContextManager],
) -> Forgetter:
    """How one unlearner forgets, its programs compiled once, within `compiling()`.

    `make` gives the unlearner for traced hyper-parameters `values` (none, most of the time), among
    them, where there is one, the `start` of the bench: a program takes it, none contains it. The
    request costs what `update` costs; what `init` did beforehand, with the training data still at
    hand, is reported beside it as `init_*`. Requests one after another cost what all cost, the
    largest memory of any, and find the memory that the one before left.
    """
    requests = bench.requests or (bench.request,)
    updates = [f"update{number}" for number in range(len(requests))]
    traced, programs = {}, {}
    given = {} if bench.start is None else {"start": bench.start}

    def init(rng, variables, values, train):
        return make(values).init(rng, bench.task, variables, train)

    def update(rng, variables, memory, values, request):
        return make(values).update(rng, bench.task, variables, memory, request)

    def trace():
        rng = jax.random.key(0)
        variables = jax.eval_shape(fresh, bench.task, bench.train, rng, bench.carried)
        traced["init"] = jax.jit(init).trace(rng, variables, given, bench.train)
        own = traced["init"].out_info
        for name, request in zip(updates, requests, strict=True):
            variables, memory = jax.tree.map(_stand_in, own)
            traced[name] = jax.jit(update).trace(rng, variables, memory, given, request)
            own = traced[name].out_info

    def prepare():
        with compiling():
            if not traced:
                trace()
            for name in traced:
                programs[name] = audit.compile_traced(traced[name])

    def run_costed(name, fn, *args):
        if name not in programs:
            with compiling():
                programs[name] = audit.compile_costed(fn, *args)
        return audit.timed(programs[name], *args)

    def forget(rng, variables, values=None, after=lambda variables: None):
        values = {name: jnp.float32(value) for name, value in (values or {}).items()} | given
        init_rng, update_rng = jax.random.split(rng)
        args = (init_rng, variables, values, bench.train)
        (variables, memory), init_cost = run_costed("init", init, *args)
        costs, kept = [], float(trees.nbytes(memory))
        for number, (name, request) in enumerate(zip(updates, requests, strict=True)):
            if number:
                after(variables)
                update_rng = jax.random.fold_in(update_rng, number)
            args = (update_rng, variables, memory, values, request)
            (variables, memory), cost = run_costed(name, update, *args)
            costs.append(cost)
        columns = audit.Cost(*map(sum, zip(*costs, strict=True)))._asdict()
        columns["peak_bytes"] = max(cost.peak_bytes for cost in costs)
        columns |= {f"init_{k}": v for k, v in init_cost._asdict().items()}
        return variables, {**columns, "memory_bytes": kept}

    return Forgetter(forget, trace, prepare)


def num_cores() -> int:
    """Processors that this process may use, where the platform says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(work: Iterable[Callable[[], None]]) -> None:
    """Compiles, one program in each thread, before anything is timed.

    Not with a mesh, where programs are made for arrays as they lie.
    """
    if parallel.current() is None:
        with ThreadPoolExecutor(num_cores()) as pool:
            list(pool.map(lambda compile: compile(), work))


def rehearse(bench: Bench, context: evaluations.Context) -> None:
    """Audits and perturbs a model that nothing is known of, which compiles what every row needs."""
    variables = fresh(bench.task, bench.train, jax.random.key(0), bench.carried)
    moved = perturbed(variables, jax.random.key(0), bench.config.rounding.size)
    bench.evaluation.observe(context, bench.task, moved)
    # Any loss is below this one, any accuracy above the other: no step is taken.
    target = np.inf if bench.evaluation.relearn.metric == "loss" else -1.0
    bench.relearn(bench.task, variables, target)


def relearn_target(bench: Bench, original: dict[str, float]) -> float:
    """When the forget set counts as known again: nearly as well as the original of that seed."""
    margin = bench.config.evaluate.relearn.margin
    return bench.evaluation.relearn.target(original, margin)


def _stand_in(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct | jax.Array:
    """What compiles as an array of that shape: itself, or zeros where it would lose its 64 bits."""
    if jax.dtypes.canonicalize_dtype(shape.dtype, allow_extended_dtype=True) == shape.dtype:
        return shape
    with jax.enable_x64(True):
        return jnp.zeros(shape.shape, shape.dtype)


def fisher_shares(bench: Bench, variables: Variables) -> np.ndarray:
    """Each forgotten example's share of the forget set's Fisher trace, `[N]`."""
    return parallel.fetch(_fisher_shares(bench.task, variables, bench.request.forget))


fresh = jax.jit(training.init_variables, static_argnums=0)
_fisher_shares = jax.jit(curvature.fisher_trace_shares, static_argnums=0)
