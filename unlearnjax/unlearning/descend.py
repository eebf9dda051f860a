"""One compiled loop for iterative unlearners: an objective, an optax transformation, an update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, Request, Task, Unlearner, Variables
from unlearnjax.unlearning.objectives import Objective

OVER = ("forget", "retain", "union", "paired", "alternate")
CURVES = ("forget", "retain", "validation")

# A transformation, or what makes one of the model at the time of the request.
Transform = (
    optax.GradientTransformation
    | Callable[[Array, Task, Variables, Request], optax.GradientTransformation]
)
# A frozen model, made at the time of the request.
Teacher = Callable[[Array, Task, Variables, Request], Variables]
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
    teachers: Mapping[str, Teacher] | None = None,
    cache_teachers: bool = True,
    forget_epochs: int | None = None,
    retain_fraction: float = 1.0,
    record: Sequence[str] = (),
    select: Select | None = None,
    labels: bool = True,
) -> Unlearner:
    """Minimises `objective` over the request, starting from the given model.

    The learning rate is the transformation's; optimizer state starts afresh with every request.

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
      cache_teachers: whether their outputs on all data are computed once before the loop (memory:
        outputs of one pass) or in every step (compute: a forward pass each).
      forget_epochs: for 'alternate', in how many epochs, from the first, the forget set takes part;
        `None` is all.
      retain_fraction: share of the retain set that is used, drawn once per request.
      record: parts of the request whose mean loss and accuracy are evaluated after every epoch,
        among 'forget', 'retain', 'validation'; the memory is then a `Trace`.
      select: `(per_example, request) -> epoch`, from the recorded parts' per-example outputs after
        each of the E epochs; the model of that epoch is returned, not the last. Memory: E models.
      labels: whether the objective reads `targets`.

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
      ['forget', 'labels', 'retain']
    """
    checks.one_of(
        over=(over, OVER),
        **{f"record[{i}]": (name, CURVES) for i, name in enumerate(record)},
    )
    if (num_epochs is None) == (num_steps is None):
        raise ValueError(
            f"one of num_epochs and num_steps must be given, got {num_epochs} and {num_steps}"
        )
    length = {"num_epochs": num_epochs} if num_steps is None else {"num_steps": num_steps}
    checks.at_least(1, batch_size=batch_size, **length)
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

    def update(rng, task, variables, memory, request: Request):
        tx_rng, teacher_rng, subset_rng, loop_rng = jax.random.split(rng, 4)
        transform = resolve(tx, tx_rng, task, variables, request)
        data, num_forget = join(request, parts)
        indices = _subset(subset_rng, num_forget, data_lib.num_examples(data), retain_fraction)
        keys = jax.random.split(teacher_rng, len(teachers))
        frozen = {
            name: teacher(key, task, variables, request)
            for key, (name, teacher) in zip(keys, teachers.items(), strict=True)
        }
        if cache_teachers:
            data = {**data, **_cached_outputs(task, frozen, data)}
        frozen.setdefault("original", original(variables, request))  # for penalties
        order = _order(over, num_forget, indices, batch_size, forget_epochs)
        epochs = num_epochs
        if num_steps is not None:
            order, epochs = _cut(order, num_steps)
        step = _skipping_empty(training.make_step(objective(task, frozen), transform))

        def epoch(state, _):
            state, _ = training.run_epochs(
                step,
                state,
                data,
                indices,
                loop_rng,
                num_epochs=1,
                batch_size=min(batch_size, indices.shape[0]),
                order=order,
            )
            outputs = {
                part: training.evaluate(task, state.variables, getattr(request, part))
                for part in record
            }
            return state, (outputs, () if select is None else state.variables)

        state = training.init_state(variables, transform)
        state, (outputs, models) = jax.lax.scan(epoch, state, length=epochs)
        result = state.variables
        if select is not None:
            chosen = select(outputs, request)
            result = jax.tree.map(lambda x: x[chosen], models)
        return result, Trace(_curves(outputs, request)) if record else memory

    needs = {*parts, *record} | ({"labels"} if labels or record else set())
    return Unlearner(init_nothing, update, frozenset(needs))


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


def original(variables: Variables, request: Request) -> Variables:
    """The model before the request: that of a chain's first link, else the one given."""
    return variables if request.original is None else request.original


def original_model(rng: Array, task: Task, variables: Variables, request: Request) -> Variables:
    """The teacher 'original': the model before the request."""
    del rng, task
    return original(variables, request)


def incompetent_model(rng: Array, task: Task, variables: Variables, request: Request) -> Variables:
    """The teacher 'incompetent': a freshly initialised model."""
    del variables
    return training.init_variables(task, request.retain or request.forget, rng)


def join(request: Request, parts: Sequence[str]) -> tuple[Data, int]:
    """The parts one after another with the flag 'forget', and how many of them it marks.

    Of the columns those that all parts have; `weight` counts as 1 where a part has none.
    """
    given = [getattr(request, name) for name in parts]
    if any("weight" in part for part in given):
        given = [{"weight": jnp.ones(data_lib.num_examples(part)), **part} for part in given]
    sizes = [data_lib.num_examples(part) for part in given]
    shared = [key for key in given[0] if all(key in part for part in given)]
    data = {key: jnp.concatenate([part[key] for part in given]) for key in shared}
    flags = [jnp.full(n, float(name == "forget")) for n, name in zip(sizes, parts, strict=True)]
    return {**data, "forget": jnp.concatenate(flags)}, sizes[0] if "forget" in parts else 0


def _subset(rng: Array, num_forget: int, num_examples: int, retain_fraction: float) -> Array:
    """Indices of the forget set and of a random share of the retain set."""
    if retain_fraction == 1:
        return jnp.arange(num_examples)
    num_retain = num_examples - num_forget
    kept = max(1, round(retain_fraction * num_retain)) if num_retain else 0
    chosen = num_forget + jax.random.permutation(rng, num_retain)[:kept]
    return jnp.concatenate([jnp.arange(num_forget), chosen])


def _order(over: str, num_forget: int, indices: Array, batch_size: int, forget_epochs: int | None):
    """`(key, epoch) -> [steps, B]`, see `descend`."""
    forget, retain = indices[:num_forget], indices[num_forget:]

    def shuffled(key, part):
        return data_lib.epoch_order(key, part, min(batch_size, part.shape[0]))

    def one_part(key, epoch):
        del epoch
        return shuffled(key, indices)

    def paired(key, epoch):
        del epoch
        retain_key, forget_key = jax.random.split(key)
        rows = shuffled(retain_key, retain)
        per_round = data_lib.steps_per_epoch(num_forget, min(batch_size, num_forget))
        rounds = jax.random.split(forget_key, data_lib.steps_per_epoch(rows.shape[0], per_round))
        beside = jax.vmap(lambda k: shuffled(k, forget))(rounds)
        beside = beside.reshape(-1, beside.shape[-1])
        return jnp.concatenate([beside[: rows.shape[0]], rows], axis=1)

    def alternate(key, epoch):
        forget_key, retain_key = jax.random.split(key)
        rows = [shuffled(forget_key, forget), shuffled(retain_key, retain)]
        if forget_epochs is not None:  # later on, batches of padding, which are skipped
            rows[0] = jnp.where(epoch < forget_epochs, rows[0], -1 - data_lib.position(rows[0]))
        width = max(r.shape[1] for r in rows)
        return jnp.concatenate([_widened(r, width) for r in rows])

    return {"paired": paired, "alternate": alternate}.get(over, one_part)


def _widened(rows: Array, width: int) -> Array:
    """Batches of another width; padding takes a batch's own examples in turn, as its statistics."""
    turns = jnp.arange(width)
    padded = -1 - data_lib.position(rows[:, turns % rows.shape[1]])
    return jnp.where(turns < rows.shape[1], rows[:, jnp.minimum(turns, rows.shape[1] - 1)], padded)


def _cut(order, num_steps: int):
    """The order with padding, which is skipped, after `num_steps`; and the epochs that takes."""
    rows = jax.eval_shape(order, jax.random.key(0), jnp.int32(0))

    def cut(key, epoch):
        full = order(key, epoch)
        late = epoch * rows.shape[0] + jnp.arange(rows.shape[0]) >= num_steps
        return jnp.where(late[:, None], -1 - data_lib.position(full), full)

    return cut, data_lib.steps_per_epoch(num_steps, rows.shape[0])


def _cached_outputs(task: Task, frozen: Mapping[str, Variables], data: Data) -> dict[str, Array]:
    """`{'TEACHER.OUTPUT': [N, ...]}`, in chunks: one forward pass over the data per teacher."""
    cached = {}
    for name, model in frozen.items():
        outputs = training.outputs(task, model, data)
        cached.update({f"{name}.{key}": value for key, value in outputs.items()})
    return cached


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
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
