"""One compiled loop for iterative unlearners: an objective, an optax transformation, an update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearnjax import checks, training
from unlearnjax import data as data_lib
from unlearnjax.types import PARTS, Array, Data, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import orders
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


class Trace(NamedTuple):
    """Memory of an unlearner that records its epochs.

    Attributes:
      curves: `{'forget_loss': [num_epochs], 'forget_accuracy': ..., 'retain_loss': ..., ...}`.
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
    validate_length(num_epochs, num_steps)
    checks.at_least(1, batch_size=batch_size)
    checks.part(retain_fraction=retain_fraction)
    if select is not None and not record:
        raise ValueError("select needs record, got none")
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

        def watch(variables):
            outputs = {
                part: training.evaluate(task, variables, getattr(request, part)) for part in record
            }
            return outputs, {name: variables[name] for name in kept}

        state, (outputs, models) = descend_parts(
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
            watch=watch,
        )
        result = training.deploy(state)
        if select is not None:
            chosen = select(outputs, request)
            result = {**result, **jax.tree.map(lambda x: x[chosen], models)}
        return result, Trace(_curves(outputs, request)) if record else memory

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
) -> tuple[training.TrainState, PyTree]:
    """The loop under `descend`, over any named parts of `types.PARTS`.

    Args:
      objective, tx, rng, task, variables: what is minimised, how, by which key, and where from.
      parts: `{name: data}`; for their columns see `join`.
      over, batch_size, along, epochs: see `orders.order`.
      num_epochs, num_steps: one of the two.
      rows: `{name: positions in that part}`, if not all of it is used.
      teachers: frozen models by the names that terms use.
      cache_teachers: names of outputs that teachers compute once on all data, before the loop; all
        other outputs are computed in every step. `None` caches all outputs of a task that draws
        nothing while they stay below `teachers.MAX_CACHED` bytes, and none otherwise.
      original: the model that penalties compare with; default `variables`.
      watch: what is to be seen of the model, see `training.deploy`, after every epoch.

    Returns:
      The state of training, optimizer's included, and what `watch` saw, leaves `[num_epochs, ...]`.

    Raises:
      ValueError: for a part, or parts, that `join` refuses, and for outputs to be cached of a task
        that draws: a teacher must see the draw of the step; for another `over`, `along`, `rows` or
        `epochs` than there are, and a length or batch size out of range.
    """
    teachers, rows, epochs = dict(teachers or {}), rows or {}, epochs or {}
    validate_length(num_epochs, num_steps)
    checks.at_least(1, batch_size=batch_size)
    checks.one_of(over=(over, orders.ORDERS))
    named = {f"rows[{name!r}]": name for name in rows} | {f"epochs[{n!r}]": n for n in epochs}
    if along is not None:
        named["along"] = along
    checks.one_of(**{name: (value, tuple(parts)) for name, value in named.items()})
    data = join(parts)
    sizes = {name: data_lib.num_examples(part) for name, part in parts.items()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    own = {name: starts[name] + rows.get(name, jnp.arange(size)) for name, size in sizes.items()}
    data = {**data, **teachers_lib.cached(task, teachers, data, cache_teachers)}
    teachers.setdefault("original", variables if original is None else original)
    order = orders.order(over, own, batch_size, along=along, epochs=epochs)
    if num_steps is not None:
        order, num_epochs = orders.cut(order, num_steps)
    step = _skipping_empty(training.make_step(objective(task, teachers), tx))

    def epoch(state, _):
        state, _ = training.run_epochs(
            step,
            state,
            data,
            jnp.concatenate(list(own.values())),
            rng,
            num_epochs=1,
            batch_size=batch_size,
            order=order,
        )
        return state, () if watch is None else watch(training.deploy(state))

    return jax.lax.scan(epoch, training.init_state(variables, tx), length=num_epochs)


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


def validate_length(num_epochs: int | None, num_steps: int | None) -> None:
    """Raises `ValueError` unless one of them is given, and at least 1."""
    if (num_epochs is None) == (num_steps is None):
        raise ValueError(
            f"one of num_epochs and num_steps must be given, got {num_epochs} and {num_steps}"
        )
    length = {"num_epochs": num_epochs} if num_steps is None else {"num_steps": num_steps}
    checks.whole(**length)
    checks.at_least(1, **length)


def join(parts: Mapping[str, Data]) -> Data:
    """The parts one after another, with the column `part` `[N]`, each one's place in `types.PARTS`.

    A column that some parts lack has there the first value that another part has, so that terms
    that are not theirs stay finite, and so do their gradients; `weight` is 1.

    Raises:
      ValueError: for no part or an unknown one, `inputs` or `index` in some of them only, or a
        column `part`.
    """
    checks.one_of(**{f"parts[{name!r}]": (name, PARTS) for name in parts})
    if not parts:
        raise ValueError(f"parts must be some of {PARTS}, got none")
    if any("part" in data for data in parts.values()):
        raise ValueError("data must have no column 'part', which says of what part a row is")
    parts = {name: data_lib.numeric(data) for name, data in parts.items()}
    names = dict.fromkeys(name for data in parts.values() for name in data)
    for column in ("inputs", "index"):
        lacking = [name for name, data in parts.items() if column in names and column not in data]
        if lacking:
            raise ValueError(f"{column!r} must be in all parts or none, {lacking[0]} has none")

    def whole(column: str) -> Array:
        like = next(jnp.asarray(data[column]) for data in parts.values() if column in data)
        filler = jnp.ones_like(like[:1]) if column == "weight" else like[:1]
        own = [data.get(column) for data in parts.values()]
        sizes = [data_lib.num_examples(data) for data in parts.values()]
        return jnp.concatenate(
            [
                jnp.repeat(filler, size, axis=0) if rows is None else rows
                for rows, size in zip(own, sizes, strict=True)
            ]
        )

    places = [
        jnp.full(data_lib.num_examples(data), PARTS.index(name)) for name, data in parts.items()
    ]
    return {**{name: whole(name) for name in names}, "part": jnp.concatenate(places)}


def _share(rng: Array, size: int, fraction: float) -> Array:
    """Positions of a random share of so many rows."""
    if fraction == 1:
        return jnp.arange(size)
    kept = max(1, round(fraction * size)) if size else 0
    return jax.random.permutation(rng, size)[:kept]


def _skipping_empty(step):
    """A batch of padding alone changes nothing but the step count, momentum included."""

    def skipping(state, batch, rng):
        new, sums = step(state, batch, rng)
        kept = _where(batch["weight"].sum() > 0, new, state)
        return kept._replace(step=new.step), sums

    return skipping


def _curves(outputs: Mapping[str, Mapping[str, Array]], request: Request) -> dict[str, Array]:
    weights = {part: data_lib.weights(getattr(request, part)) for part in outputs}
    return {
        f"{part}_{metric}": jnp.average(values[metric], axis=1, weights=weights[part])
        for part, values in outputs.items()
        for metric in ("loss", "accuracy")
        if metric in values
    }


def _where(condition: Array, yes, no):
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), yes, no)
