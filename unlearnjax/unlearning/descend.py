"""One compiled loop for iterative unlearners: an objective, an optax transformation, an update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import orders
from unlearnjax.unlearning import parts as parts_lib
from unlearnjax.unlearning import teachers as teachers_lib
from unlearnjax.unlearning.objectives import Objective

OVER = ("forget", "retain", *orders.ORDERS)
CURVES = ("forget", "retain", "validation")

# A transformation, or what makes one of the model at the time of the request.
Transform = (
    optax.GradientTransformation
    | Callable[[Array, Task, Variables, Request], optax.GradientTransformation]
)
# ({part: {'loss': [E, N], 'accuracy': [E, N], ...}}, request) -> number of an epoch, from 0
Select = Callable[[Mapping[str, Mapping[str, Array]], Request], Array]
# ({part: {'loss': [N], 'accuracy': [N], ...}}, request) -> whether no further epoch is run
Stop = Callable[[Mapping[str, Mapping[str, Array]], Request], Array]
# (task, variables, request) -> {name: value}
Watch = Callable[[Task, Variables, Request], Mapping[str, Array]]


class Trace(NamedTuple):
    """Memory of an unlearner that records its epochs.

    Attributes:
      curves: `{'forget_loss': [num_epochs], 'forget_accuracy': ..., 'retain_loss': ..., ...}`, and
        what was watched, `{name: [num_epochs, ...]}`.
    """

    curves: dict[str, Array]


def descend(
    objective: Objective,
    tx: Transform,
    *,
    over: str,
    batch_size: int,
    num_epochs: int | None = None,
    num_steps: int | None = None,
    teachers: Mapping[str, teachers_lib.Teacher] | None = None,
    cache_teachers: Sequence[str] | None = None,
    forget_epochs: int | None = None,
    retain_fraction: float = 1.0,
    record: Sequence[str] = (),
    select: Select | None = None,
    stop: Stop | None = None,
    watch: Watch | None = None,
    labels: bool = True,
    inputs: bool = True,
) -> Unlearner:
    """Minimises `objective` over the request, starting from the given model.

    The learning rate is the transformation's; optimizer state starts afresh with every request.
    Where the transformation is `training.averaged`, the average is what is recorded, selected and
    returned.

    Args:
      objective: `(task, teachers) -> loss_fn`, see `objectives.combine`.
      tx: optax transformation over the parameters, or a function
        `(rng, task, variables, request)` that returns one.
      over: what an epoch passes over. 'forget' or 'retain': that part. 'union': both, shuffled
        together. 'paired': the retain set, every step with a batch of the forget set beside it,
        which is gone through as often as it takes. 'alternate': first the forget set, then the
        retain set, in batches of one kind.
      batch_size: examples per step (of each part, for 'paired'); capped at the size of a part,
        since a forget set may be small.
      num_epochs, num_steps: passes, or steps: one of the two. The last pass may be cut short by
        `num_steps`.
      teachers: frozen models that the objective compares with, by the names that its terms use,
        e.g. `{'original': original_model, 'incompetent': incompetent_model}`.
      cache_teachers: which of their outputs are computed once before the loop (memory: outputs of
        one pass), not in every step (compute: a forward pass each), see `descend_parts`.
      forget_epochs: for 'alternate', in how many epochs, from the first, the forget set takes part;
        `None` is all.
      retain_fraction: share of the retain set that is used, drawn once per request.
      record: parts of the request whose mean loss and accuracy are evaluated after every epoch,
        among 'forget', 'retain', 'validation'; the memory is then a `Trace`.
      select: `(per_example, request) -> epoch`, from the recorded parts' per-example outputs after
        each of the E epochs; the model of that epoch is returned, not the last. Memory: E models.
      stop: `(per_example, request) -> bool`, from the recorded parts' per-example outputs of the
        given model and after every epoch: where it is true the model stays as it is to the end.
      watch: `(task, variables, request) -> {name: value}`, what else is to be seen of the model
        after every epoch; the memory is then a `Trace`, too.
      labels: whether the objective reads `targets`.
      inputs: whether it reads `inputs`; without them a request may be data-free.

    Returns:
      An unlearner that needs the parts it passes over and records. Cost: `num_epochs` passes over
      them, one more per teacher, and one evaluation per epoch and recorded part.

    Raises:
      ValueError: for a value out of range.

    Examples:
      >>> from unlearnjax import unlearning
      >>> from unlearnjax.unlearning import objectives
      >>> objective = objectives.combine(  # near the original on retain, away from it on forget
      ...     forget=[(-1.0, objectives.divergence("original"))],
      ...     retain=[(1.0, objectives.divergence("original")), (1.0, objectives.task_loss)],
      ... )
      >>> method = unlearning.descend(
      ...     objective,
      ...     optax.adam(1e-3),
      ...     over="paired",
      ...     num_epochs=2,
      ...     batch_size=64,
      ...     teachers={"original": unlearning.original_model},
      ... )
      >>> sorted(method.needs)
      ['forget', 'inputs', 'labels', 'retain']
    """
    checks.one_of(
        over=(over, OVER),
        **{f"record[{i}]": (name, CURVES) for i, name in enumerate(record)},
    )
    parts_lib.validate_length(num_epochs, num_steps)
    checks.whole(batch_size=batch_size)
    checks.at_least(1, batch_size=batch_size)
    checks.part(retain_fraction=retain_fraction)
    for name, given in (("select", select), ("stop", stop)):
        if given is not None and not record:
            raise ValueError(f"{name} needs record, got none")
    teachers = teachers or {}
    if not isinstance(teachers, Mapping) or not all(map(callable, teachers.values())):
        raise ValueError(
            "teachers must map names to functions of (rng, task, variables, request), got "
            f"{teachers!r}"
        )
    parts = (over,) if over in ("forget", "retain") else ("forget", "retain")
    limited = over == "alternate" and forget_epochs is not None

    def update(rng, task, variables, memory, request: Request):
        tx_rng, teacher_rng, subset_rng, loop_rng = jax.random.split(rng, 4)
        data = {name: getattr(request, name) for name in parts}
        rows = {}
        if "retain" in data:
            size = data_lib.num_examples(data["retain"])
            rows["retain"] = _share(subset_rng, size, retain_fraction)
        keys = jax.random.split(teacher_rng, len(teachers))
        frozen = {
            name: teacher(key, task, variables, request)
            for key, (name, teacher) in zip(keys, teachers.items(), strict=True)
        }

        # What is only carried is kept once, and not for every epoch.
        kept = () if select is None else training.changed(task, variables, data[parts[0]])

        def see(variables):
            outputs = {
                part: training.evaluate(task, variables, getattr(request, part)) for part in record
            }
            own = {} if watch is None else dict(watch(task, variables, request))
            return outputs, {name: variables[name] for name in kept}, own

        state, (outputs, models, watched) = descend_parts(
            objective,
            resolve(tx, tx_rng, task, variables, request),
            loop_rng,
            task,
            variables,
            data,
            over="union" if len(parts) == 1 else over,
            batch_size=batch_size,
            num_epochs=num_epochs,
            num_steps=num_steps,
            teachers=frozen,
            cache_teachers=cache_teachers,
            original=teachers_lib.original(variables, request),
            epochs={"forget": forget_epochs} if limited else {},
            rows=rows,
            watch=see,
            stop=None if stop is None else lambda seen: stop(seen[0], request),
        )
        result = training.deploy(state)
        if select is not None:
            chosen = select(outputs, request)
            result = {**result, **jax.tree.map(lambda x: x[chosen], models)}
        traced = record or watch is not None
        return result, Trace(_curves(outputs, request) | watched) if traced else memory

    needs = {*parts, *record} | ({"labels"} if labels or record else set())
    return Unlearner(init_nothing, update, frozenset(needs | ({"inputs"} if inputs else set())))


def descend_parts(
    objective: Objective,
    tx: optax.GradientTransformation,
    rng: Array,
    task: Task,
    variables: Variables,
    parts: Mapping[str, Data],
    *,
    over: str,
    batch_size: int,
    num_epochs: int | None = None,
    num_steps: int | None = None,
    along: str | None = None,
    epochs: Mapping[str, int] | None = None,
    rows: Mapping[str, Array] | None = None,
    teachers: Mapping[str, Variables] | None = None,
    cache_teachers: Sequence[str] | None = None,
    original: Variables | None = None,
    watch: Callable[[Variables], PyTree] | None = None,
    stop: Callable[[PyTree], Array] | None = None,
) -> tuple[training.TrainState, PyTree]:
    """The loop under `descend`, over any named parts of `types.PARTS`.

    Args:
      objective, tx, rng, task, variables: what is minimised, how, by which key, and where from.
      parts: `{name: data}`; for their columns see `parts.join`.
      over, batch_size, along, epochs: see `orders.order`.
      num_epochs, num_steps: one of the two.
      rows: `{name: positions in that part}`, if not all of it is used.
      teachers: frozen models by the names that terms use.
      cache_teachers: names of outputs that teachers compute once on all data, before the loop; all
        other outputs are computed in every step. `None` caches all outputs of a task that draws
        nothing while they stay below `teachers.MAX_CACHED` bytes, and none otherwise.
      original: the model that penalties compare with; default `variables`.
      watch: what is to be seen of the model, see `training.deploy`, after every epoch.
      stop: whether what was seen ends the run, see `run_parts`.

    Returns:
      The state of training, optimizer's included, and what `watch` saw, leaves `[num_epochs, ...]`.

    Raises:
      ValueError: for a part, or parts, that `parts.join` refuses, and for outputs to be cached of
        a task that draws: a teacher must see the draw of the step; for another `over`, `along`,
        `rows` or `epochs` than there are, and a length or batch size out of range.
    """
    named = dict(teachers or {})
    everyone = {"original": variables if original is None else original, **named}
    return parts_lib.run_parts(
        training.make_step(objective(task, everyone), tx),
        training.init_state(variables, tx),
        rng,
        parts,
        over=over,
        batch_size=batch_size,
        num_epochs=num_epochs,
        num_steps=num_steps,
        along=along,
        epochs=epochs,
        rows=rows,
        columns=lambda data: teachers_lib.cached(task, named, data, cache_teachers),
        watch=None if watch is None else lambda state: watch(training.deploy(state)),
        stop=stop,
    )


def resolve(
    tx: Transform, rng: Array, task: Task, variables: Variables, request: Request
) -> optax.GradientTransformation:
    """The transformation itself, made of the model and the request where it is made of them."""
    given = isinstance(tx, optax.GradientTransformation)
    return tx if given else tx(rng, task, variables, request)


def init_nothing(rng: jax.Array, task: Task, variables: Any, data: Any) -> tuple[Any, tuple]:
    """`init` of an unlearner that deploys the trained model as it is and remembers nothing."""
    del rng, task, data
    return variables, ()


def _share(rng: Array, size: int, fraction: float) -> Array:
    """Positions of a random share of so many rows."""
    if fraction == 1:
        return jnp.arange(size)
    kept = max(1, round(fraction * size)) if size else 0
    return jax.random.permutation(rng, size)[:kept]


def _curves(outputs: Mapping[str, Mapping[str, Array]], request: Request) -> dict[str, Array]:
    weights = {part: data_lib.weights(getattr(request, part)) for part in outputs}
    return {
        f"{part}_{metric}": jnp.average(values[metric], axis=1, weights=weights[part])
        for part, values in outputs.items()
        for metric in ("loss", "accuracy")
        if metric in values
    }
