"""Where in a forgotten prompt the concept is, and what must not be kept and forgotten at once."""

import jax
import numpy as np

from unlearnjax import checks
from unlearnjax.data import captions
from unlearnjax.diffusion.denoiser import Process, validate
from unlearnjax.types import Array, Data, Request
from unlearnjax.unlearning.diffusion import conditions


def validate_prompts(process: Process) -> None:
    """Raises `ValueError` for a bad process, or one of classes."""
    validate(process)
    if not isinstance(process.null, tuple):
        raise ValueError(f"process must be one of prompts, got the null class {process.null!r}")


def told(request: Request, process: Process) -> tuple[Data, Array]:
    """What a closed form is told of a request, each caption a row.

    Call it before compiling, too, where values are known: then it sees what is wrong with them.

    Returns:
      The columns `condition`, `anchor.condition`, `concept` and `anchor.concept` of the forget set,
      `[N, L]`, and `condition` of the retain set, `[M, L]`.

    Raises:
      ValueError: see `conditions.validate_request`, `validate_apart` and `masks`.
    """
    forget, retain = (every_caption(part) for part in (request.forget, request.retain))
    request = Request(forget, retain)
    conditions.validate_request(request, None, process)
    validate_apart(request, process)
    columns = {
        "condition": conditions.forgotten(request, process),
        "anchor.condition": conditions.replaced(forget, None, process),
        **masks(forget, process, ("concept", "anchor.concept")),
    }
    return columns, conditions.retained(request, process)


def every_caption(data: Data) -> Data:
    """Each caption as a row of its own, with what is said of it; `data` where it has no captions.

    Columns `captions` and `concepts` `[N, P, L]`, and the same of views, become `condition` and
    `concept` `[N * P, L]`.
    """
    if "captions" not in data:
        return data
    found = {}
    for name, values in data.items():
        view, dot, column = name.rpartition(".")
        if column in captions.DRAWN:
            found[view + dot + captions.DRAWN[column]] = values.reshape(-1, values.shape[-1])
    return found


def masks(
    data: Data, process: Process, columns: tuple[str, ...] = ("concept",)
) -> dict[str, Array]:
    """Columns of the forget set, `[N, L]` of 0 and 1: a concept's own tokens in a prompt.

    Raises:
      ValueError: without one, for another shape or type, other numbers, or a prompt in which the
        concept has no token; of values only where they are no tracers.
    """
    found = {}
    for column in columns:
        if column not in data:
            raise ValueError(f"forget must have the column {column!r}, got {sorted(data)}")
        mask = data[column]
        mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
        wanted = (len(data["condition"]), len(process.null))
        if mask.shape != wanted or mask.dtype.kind not in "biu":
            raise ValueError(
                f"{column} of forget must be {list(wanted)} of 0 and 1, got {mask.dtype} "
                f"{list(mask.shape)}"
            )
        if not checks.traced(mask):
            other = np.setdiff1d(mask, [0, 1]).tolist()
            if other:
                raise ValueError(f"{column} of forget must be 0 and 1, got {other[:5]}")
            without = np.flatnonzero(~np.asarray(mask, bool).any(axis=1))
            if len(without):
                raise ValueError(
                    f"{column} of forget must mark a token of every prompt, of "
                    f"{np.asarray(data['condition'])[without[0]].tolist()} it marks none"
                )
        found[column] = mask
    return found


def validate_apart(request: Request, process: Process) -> None:
    """Raises `ValueError` for conditions that are to be forgotten and kept, if they are known."""
    parts = conditions.forgotten(request, process), conditions.retained(request, process)
    if any(map(checks.traced, parts)):
        return
    gone, kept = ({tuple(np.atleast_1d(row)) for row in np.asarray(part)} for part in parts)
    both = sorted(gone & kept)[:5]
    if both:
        raise ValueError(
            f"what is forgotten must not be retained, got {[list(map(int, c)) for c in both]}"
        )
