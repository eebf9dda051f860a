"""Several named parts of data in one loop, whatever its step is."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks, training
from unlearnjax import data as data_lib
from unlearnjax.training.step import Step
from unlearnjax.types import PARTS, Array, Data, PyTree
from unlearnjax.unlearning import orders


def run_parts(
    step: Step,
    state: training.TrainState,
    rng: Array,
    parts: Mapping[str, Data],
    *,
    over: str,
    batch_size: int,
    num_epochs: int | None = None,
    num_steps: int | None = None,
    along: str | None = None,
    epochs: Mapping[str, int] | None = None,
    rows: Mapping[str, Array] | None = None,
    columns: Callable[[Data], Data] | None = None,
    watch: Callable[[training.TrainState], PyTree] | None = None,
    stop: Callable[[PyTree], Array] | None = None,
) -> tuple[training.TrainState, PyTree]:
    """Takes any step over named parts: `make_step`'s under `descend_parts`, or several players'.

    Args:
      step, state: see `training.make_step` and `training.alternate`. A batch of padding alone
        changes nothing but the state's count of steps.
      rng, parts, over, batch_size, num_epochs, num_steps, along, epochs, rows: see
        `descend_parts`.
      columns: `joined parts -> further columns` of them, `[N, ...]`.
      watch: what is to be seen of the state after every epoch.
      stop: whether what `watch` saw after an epoch, or before the first, ends the run: the state
        then stays as it is, and what is seen of it.

    Returns:
      The state, and what `watch` saw, leaves `[num_epochs, ...]`.

    Raises:
      ValueError: as `descend_parts`; for `stop` without `watch`.
    """
    rows, epochs = rows or {}, epochs or {}
    validate_length(num_epochs, num_steps)
    checks.whole(batch_size=batch_size)
    checks.at_least(1, batch_size=batch_size)
    checks.one_of(over=(over, orders.ORDERS))
    named = {f"rows[{name!r}]": name for name in rows} | {f"epochs[{n!r}]": n for n in epochs}
    if along is not None:
        named["along"] = along
    checks.one_of(**{name: (value, tuple(parts)) for name, value in named.items()})
    data = join(parts)
    data = data if columns is None else {**data, **columns(data)}
    sizes = {name: data_lib.num_examples(part) for name, part in parts.items()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    own = {name: starts[name] + rows.get(name, jnp.arange(size)) for name, size in sizes.items()}
    order = orders.order(over, own, batch_size, along=along, epochs=epochs)
    if num_steps is not None:
        order, num_epochs = orders.cut(order, num_steps)

    def epoch(state, _):
        state = one_epoch(state)
        return state, () if watch is None else watch(state)

    def until(carry, _):
        state, done, seen = carry
        # One scan, whatever is stopped: nothing is computed once it is, except under `vmap`.
        state = jax.lax.cond(done, lambda state: state, one_epoch, state)
        seen = jax.lax.cond(done, lambda _: seen, watch, state)
        return (state, done | stop(seen), seen), seen

    def one_epoch(state):
        state, _ = training.run_epochs(
            _skipping_empty(step),
            state,
            data,
            jnp.concatenate(list(own.values())),
            rng,
            num_epochs=1,
            batch_size=batch_size,
            order=order,
        )
        return state

    if stop is None:
        return jax.lax.scan(epoch, state, length=num_epochs)
    if watch is None:
        raise ValueError("stop reads what watch sees, got none")
    first = watch(state)
    (state, _, _), seen = jax.lax.scan(until, (state, stop(first), first), length=num_epochs)
    return state, seen


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


def validate_length(num_epochs: int | None, num_steps: int | None) -> None:
    """Raises `ValueError` unless one of them is given, and at least 1."""
    if (num_epochs is None) == (num_steps is None):
        raise ValueError(
            f"one of num_epochs and num_steps must be given, got {num_epochs} and {num_steps}"
        )
    length = {"num_epochs": num_epochs} if num_steps is None else {"num_steps": num_steps}
    checks.whole(**length)
    checks.at_least(1, **length)


def _skipping_empty(step):
    """A batch of padding alone changes nothing but the step count, momentum included."""

    def skipping(state, batch, rng):
        new, sums = step(state, batch, rng)
        kept = _where(batch["weight"].sum() > 0, new, state)
        return kept._replace(step=new.step), sums

    return skipping


def _where(condition: Array, yes, no):
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), yes, no)
