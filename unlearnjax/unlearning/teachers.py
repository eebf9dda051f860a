"""Frozen models that a student is compared with, and what they say."""

from collections.abc import Callable, Mapping, Sequence

import jax

from unlearnjax import checks, training
from unlearnjax.types import Array, Data, Request, Task, Variables

# A frozen model, made at the time of the request.
Teacher = Callable[[Array, Task, Variables, Request], Variables]
# Bytes of a teacher's outputs that are kept for a loop unless it is asked for.
MAX_CACHED = 2**30


def original(variables: Variables, request: Request) -> Variables:
    """The model before the request: that of a chain's first link, else the one given."""
    return variables if request.original is None else request.original


def original_model(rng: Array, task: Task, variables: Variables, request: Request) -> Variables:
    """The teacher 'original': the model before the request."""
    del rng, task
    return original(variables, request)


def incompetent_model(rng: Array, task: Task, variables: Variables, request: Request) -> Variables:
    """The teacher 'incompetent': a freshly initialised model."""
    data = request.retain or request.forget
    return training.init_variables(task, data, rng, training.carried(task, data, variables))


def cached(
    task: Task, frozen: Mapping[str, Variables], data: Data, names: Sequence[str] | None
) -> dict[str, Array]:
    """`{'TEACHER.OUTPUT': [N, ...]}`, in chunks: one forward pass over the data per teacher.

    Args:
      task, frozen, data: the teachers by name, and what they look at.
      names: of the outputs to be kept; `None`: see `descend.descend_parts`.

    Raises:
      ValueError: for a name that is no output, or a task that draws.
    """
    if names is not None:
        checks.not_text(cache_teachers=names)
    if names and task.draw is not None:
        raise ValueError(f"cache_teachers must be () for a task that draws, got {tuple(names)}")
    if names == () or (names is None and task.draw is not None):
        return {}
    found = {}
    for name, model in frozen.items():
        outputs = lambda model=model: training.outputs(task, model, data)
        shapes = jax.eval_shape(outputs)
        kept = names
        if names is None:
            size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
            kept = shapes if size <= MAX_CACHED else ()
        unknown = set(kept) - set(shapes)
        if unknown:
            raise ValueError(
                f"cache_teachers must be among the outputs {sorted(shapes)}, got {sorted(unknown)}"
            )
        if kept:
            found |= {f"{name}.{key}": x for key, x in outputs().items() if key in kept}
    return found
