"""Which conditions a request forgets, and what takes their place."""

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks, tasks
from unlearnjax.diffusion.denoiser import Process, validate
from unlearnjax.types import Array, Batch, Data, Request, Task

# Of the columns of prompts, those that have one of the concept alone.
ALONE = ("condition", "concept", "captions", "concepts")


def of(data: Data, name: str, process: Process) -> Array:
    """`[N]` or `[N, L]`: the column `condition` of the part `name`, as the process has conditions.

    Raises:
      ValueError: without it, if it is no whole numbers, or none at all.
    """
    return _column(data, "condition", name, process)


def replaced(data: Data, anchor: int | None, process: Process) -> Array:
    """What each of the conditions of `data` becomes, of their shape.

    For classes `anchor`; `None` is the one after it, the last's the first. For prompts, which have
    no order, the column `anchor.condition`.

    Raises:
      ValueError: for prompts without this column, see `of`.

    Examples:
      >>> from unlearnjax import diffusion
      >>> process = diffusion.Process(diffusion.cosine(), (8, 8, 1), null=10)
      >>> replaced({"condition": jnp.array([3, 9])}, None, process).tolist()
      [4, 0]
    """
    if isinstance(process.null, tuple):
        return _column(data, "anchor.condition", "forget", process)
    condition = of(data, "forget", process)
    becomes = (condition + 1) % process.null if anchor is None else anchor
    return jnp.broadcast_to(jnp.asarray(becomes, condition.dtype), condition.shape)


def validate_anchor(anchor: int | None, process: Process) -> None:
    """Raises `ValueError` for a bad process, or an anchor that is none of its conditions."""
    validate(process)
    if anchor is None:
        return
    if isinstance(process.null, tuple):
        raise ValueError(
            "anchor must be None where prompts are forgotten, which become those in the column "
            f"'anchor.condition' of the forget set, got {anchor!r}"
        )
    checks.whole(anchor=anchor)
    if not checks.traced(anchor) and not 0 <= anchor < process.null:
        raise ValueError(f"anchor must be a condition in 0..{process.null - 1}, got {anchor}")


def forgotten(request: Request, process: Process) -> Array:
    """`[N]` or `[N, L]`: the conditions of the forget set; none may be null.

    Raises:
      ValueError: see `of`; and for one that the process does not know, where they are no tracers.
    """
    return _known(request.forget, "forget", process, null=False)


def alone(request: Request) -> Request:
    """The request by what names the concept and nothing else, where its forget set has that.

    That is, by `alone.condition` and `alone.concept` in the place of `condition` and `concept`, and
    by `alone.captions` and `alone.concepts` in that of `captions` and `concepts`.
    """
    forget = request.forget or {}
    named = {name: forget[f"alone.{name}"] for name in ALONE if f"alone.{name}" in forget}
    return request._replace(forget={**forget, **named}) if named else request


def retained(request: Request, process: Process) -> Array:
    """The same of the retain set, which may have null ones."""
    return _known(request.retain, "retain", process, null=True)


def validate_request(request: Request, anchor: int | None, process: Process) -> None:
    """Raises `ValueError` for a forgotten condition that is unknown, or that others become.

    In compiled code, where conditions are tracers, it sees only that there are any.
    """
    pairs = _pairs(request, anchor, process)
    gone = [c for c, _ in pairs]
    wrong = [(c, b) for c, b in pairs if b in gone][:5]
    if wrong:
        became = [b for _, b in wrong]
        raise ValueError(
            f"anchor must not be forgotten itself, got {became} for {[c for c, _ in wrong]}"
        )


def validate_replacement(request: Request, anchor: int | None, process: Process) -> None:
    """The same for one that is unknown, or becomes itself."""
    wrong = [c for c, b in _pairs(request, anchor, process) if c == b]
    if wrong:
        raise ValueError(f"anchor must differ from what is forgotten, got {wrong[0]}")


def rows(condition: Array, batch_size: int, start: int = 0) -> Data:
    """A data set without images: each of the conditions in turn, in full batches.

    Args:
      condition: `[N]` or `[N, L]`.
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
    """The conditions in `column`, of which training drops some, apart from the batch's."""
    own = {name: value for name, value in batch.items() if name in ("inputs", "index")}
    given = {**own, "condition": batch[column], "key": keys(batch, rng)}
    return tasks.drawn(task, given, train=True)["condition"]


def uniform(batch: Batch, rng: Array, shape: tuple[int, ...], bound: float) -> Array:
    """`[B, *shape]` noise, uniform between `-bound` and `bound`."""
    draw = lambda key: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    return jax.vmap(draw)(keys(batch, rng))


def _column(data: Data, column: str, name: str, process: Process) -> Array:
    if column not in data:
        raise ValueError(f"{name} must have the column {column!r}, got {sorted(data)}")
    condition = data[column]
    condition = condition if isinstance(condition, jax.Array) else np.asarray(condition)
    own = np.shape(process.null)
    if condition.shape[1:] != own or not jnp.issubdtype(condition.dtype, jnp.integer):
        raise ValueError(
            f"{column} of {name} must be [{', '.join(map(str, ('N', *own)))}] integers, got "
            f"{condition.dtype} {list(condition.shape)}"
        )
    if not condition.shape[0]:
        raise ValueError(f"{name} must hold at least one example, got none")
    return condition.astype(np.int32)


def _known(data: Data, name: str, process: Process, null: bool) -> Array:
    condition = of(data, name, process)
    if isinstance(process.null, tuple):
        # How many words a model reads is not the process's to say.
        what = "a prompt, of tokens >= 0" + ("" if null else " and not the empty one")
        known = lambda c: min(c) >= 0 and (null or c != list(process.null))
    else:
        last = process.null if null else process.null - 1
        what, known = f"in 0..{last}", lambda c: 0 <= c <= last
    unknown = [c for c in _distinct(condition) if not known(c)]
    if unknown:
        raise ValueError(f"condition of {name} must be {what}, got {unknown[:5]}")
    return condition


def _pairs(request: Request, anchor: int | None, process: Process) -> list[list]:
    """The distinct forgotten conditions, each with what it becomes."""
    gone = forgotten(request, process)
    becomes = replaced(request.forget, anchor, process)
    if checks.traced(gone) or checks.traced(becomes):
        return []
    return _distinct(np.stack([gone, becomes], axis=1))


def _distinct(condition: Array) -> list:
    """None where they are not known yet."""
    return [] if checks.traced(condition) else np.unique(condition, axis=0).tolist()
