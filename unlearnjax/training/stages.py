"""Models that come about in several trainings, each of which is given what those before it made.

An encoder, then a denoiser that reads what it says. What a stage makes may be taken from an earlier
run, and what comes after it be made anew: so one knows what each of them remembers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from unlearnjax import checks
from unlearnjax.types import Array, PyTree


class Stage(NamedTuple):
    """One of several trainings.

    Attributes:
      name: of what it makes.
      fit: `(rng, made) -> artefact`, a model's variables or any other tree; `made` maps the names
        of the stages before it to what they made. It closes over its data, or reads a checkpoint.
    """

    name: str
    fit: Callable[[Array, Mapping[str, PyTree]], PyTree]


def run_stages(
    stages: Sequence[Stage], rng: Array, start: Mapping[str, PyTree] | None = None
) -> dict[str, PyTree]:
    """What each stage makes, by name, in their order; the last one is the model.

    Args:
      stages: one after another.
      rng: the key of a stage is `fold_in(rng, position)`, whatever is done before it.
      start: what some stages made already; these are not run.

    Raises:
      ValueError: for names that are not distinct, none at all, or of no stage in `start`.

    Examples:
      >>> double = lambda rng, made: 2 * made["one"]
      >>> stages = [Stage("one", lambda rng, made: 1), Stage("two", double)]
      >>> run_stages(stages, jax.random.key(0))
      {'one': 1, 'two': 2}
      >>> run_stages(stages, jax.random.key(0), {"one": 5})
      {'one': 5, 'two': 10}
    """
    names = _names(stages)
    start = {} if start is None else start
    checks.among(start=(list(start), names))
    made = {}
    for position, stage in enumerate(stages):
        known = stage.name in start
        made[stage.name] = (
            start[stage.name] if known else stage.fit(jax.random.fold_in(rng, position), dict(made))
        )
    return made


def retrain_from(
    stages: Sequence[Stage], name: str, start: Mapping[str, PyTree], rng: Array
) -> dict[str, PyTree]:
    """The stage `name` and all after it made anew; those before it are those of `start`.

    With stages of retained data and what those of all data made, each name gives a rung of a
    ladder: the first is retraining, the last one leaves all that earlier stages remember.

    Args:
      stages, rng: see `run_stages`; under the same key each stage has the key that it had there.
      name: of the first stage that is run.
      start: what the stages before it made, or all of them.

    Raises:
      ValueError: for a name that no stage has, and if `start` lacks one before it.
    """
    names = _names(stages)
    checks.one_of(name=(name, names))
    kept = names[: names.index(name)]
    lacking = [own for own in kept if own not in start]
    if lacking:
        raise ValueError(f"start must hold what {kept} made, got {sorted(start)}")
    return run_stages(stages, rng, {own: start[own] for own in kept})


def _names(stages: Sequence[Stage]) -> list[str]:
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"stages must be at least one, of distinct names, got {names}")
    return names
