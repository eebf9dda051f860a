"""Which conditions a request forgets, and what takes their place."""

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks, tasks
from unlearnjax.diffusion.denoiser import Process, validate
from unlearnjax.types import Array, Batch, Data, Request, Task


def of(data: Data, name: str) -> Array:
    """`[N]`, the column `condition` of the part `name`.

    Raises:
      ValueError: without it, if it is no whole numbers, or none at all.
    """
    if "condition" not in data:
        raise ValueError(f"{name} must have the column 'condition', got {sorted(data)}")
    condition = data["condition"]
    condition = condition if isinstance(condition, jax.Array) else np.asarray(condition)
    if condition.ndim != 1 or not jnp.issubdtype(condition.dtype, jnp.integer):
        raise ValueError(
            f"condition of {name} must be [N] integers, got {condition.dtype} "
            f"{list(condition.shape)}"
        )
    if not condition.shape[0]:
        raise ValueError(f"{name} must hold at least one example, got none")
    return condition.astype(np.int32)


def replaced(condition: Array, anchor: int | None, process: Process) -> Array:
    """`[N]`: `anchor` for each of the conditions; `None` is the one after it, the last's the first.

    Examples:
      >>> from unlearnjax import diffusion
      >>> process = diffusion.Process(diffusion.cosine(), (8, 8, 1), null=10)
      >>> replaced(jnp.array([3, 9]), None, process).tolist()
      [4, 0]
    """
    becomes = jnp.asarray(_becomes(condition, anchor, process), condition.dtype)
    return jnp.broadcast_to(becomes, condition.shape)


def validate_anchor(anchor: int | None, process: Process) -> None:
    """Raises `ValueError` for a bad process, or an anchor that is none of its conditions."""
    validate(process)
    if anchor is not None:
        checks.whole(anchor=anchor)
        if not checks.traced(anchor) and not 0 <= anchor < process.null:
            raise ValueError(f"anchor must be a condition in 0..{process.null - 1}, got {anchor}")


def forgotten(request: Request, process: Process) -> Array:
    """`[N]`: the conditions of the forget set; none may be null.

    Raises:
      ValueError: see `of`; and for one that the process does not know, where they are no tracers.
    """
    return _known(request.forget, "forget", process.null - 1)


def retained(request: Request, process: Process) -> Array:
    """The same of the retain set, which may have null ones."""
    return _known(request.retain, "retain", process.null)


def validate_request(request: Request, anchor: int | None, process: Process) -> None:
    """Raises `ValueError` for a forgotten condition that is unknown, or that others become.

    In compiled code, where conditions are tracers, it sees only that there are any.
    """
    gone = _distinct(forgotten(request, process))
    wrong = [c for c in gone if _becomes(c, anchor, process) in gone]
    if wrong:
        became = [_becomes(c, anchor, process) for c in wrong]
        raise ValueError(f"anchor must not be forgotten itself, got {became[:5]} for {wrong[:5]}")


def validate_replacement(request: Request, anchor: int | None, process: Process) -> None:
    """The same for one that is unknown, or becomes itself."""
    gone = _distinct(forgotten(request, process))
    wrong = [c for c in gone if _becomes(c, anchor, process) == c]
    if wrong:
        raise ValueError(f"anchor must differ from what is forgotten, got {wrong[0]}")


def rows(condition: Array, batch_size: int, start: int = 0) -> Data:
    """A data set without images: each of the conditions in turn, in full batches.

    Args:
      condition: `[N]`.
      batch_size: whole batches of so many rows, the fewest that have every one of the N.
      start: the first `index`.
    """
    number = -(-condition.shape[0] // batch_size) * batch_size
    places = jnp.arange(number, dtype=jnp.int32)
    repeated = jnp.asarray(condition)[places % condition.shape[0]]
    return {"condition": repeated, "index": start + places}


def keys(batch: Batch, rng: Array) -> Array:
    """`[B]`, one for each example, from `rng` and its `index` alone."""
    return tasks.keyed({"index": batch["index"]}, rng)["key"]


def dropped(task: Task, batch: Batch, column: str, rng: Array) -> Array:
    """`[B]`: the conditions in `column`, of which training drops some, apart from the batch's."""
    own = {name: value for name, value in batch.items() if name in ("inputs", "index")}
    given = {**own, "condition": batch[column], "key": keys(batch, rng)}
    return tasks.drawn(task, given, train=True)["condition"]


def uniform(batch: Batch, rng: Array, shape: tuple[int, ...], bound: float) -> Array:
    """`[B, *shape]` noise, uniform between `-bound` and `bound`."""
    draw = lambda key: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    return jax.vmap(draw)(keys(batch, rng))


def _known(data: Data, name: str, last: int) -> Array:
    condition = of(data, name)
    unknown = [c for c in _distinct(condition) if not 0 <= c <= last]
    if unknown:
        raise ValueError(f"condition of {name} must be in 0..{last}, got {unknown[:5]}")
    return condition


def _distinct(condition: Array) -> list[int]:
    """None where they are not known yet."""
    return [] if checks.traced(condition) else np.unique(condition).tolist()


def _becomes(condition, anchor: int | None, process: Process):
    return (condition + 1) % process.null if anchor is None else anchor
