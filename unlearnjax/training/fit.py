"""How models come about: how they start, what one step is, what of the state becomes the model.

Originals, oracles, ensembles and retraining share it, so that all of them are trained alike.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, trees
from unlearnjax import data as data_lib
from unlearnjax.training.alternate import Player, alternate, deploy_players, init_players
from unlearnjax.training.averages import deploy
from unlearnjax.training.epochs import run_epochs
from unlearnjax.training.evaluate import example
from unlearnjax.training.step import LossFn, Step, TrainState, init_state, make_step, supervised
from unlearnjax.types import Array, Data, PyTree, Task, Variables


class Recipe(NamedTuple):
    """How models of one kind are trained.

    Attributes:
      start: `(data, rng, given) -> TrainState`, before the first step; `given` are collections that
        take the place of fresh ones, or `None`. See `fresh`.
      step: `(state, batch, rng) -> (state, metrics)`, see `make_step`.
      deploy: `TrainState -> Variables`, the model of a state; by default its parameters, or their
        average, see `averaged`.
    """

    start: Callable[[Data, Array, Variables | None], TrainState]
    step: Step
    deploy: Callable[[TrainState], Variables] = deploy


# An optax transformation, by which a task's own loss is minimised, or what makes a recipe of a
# task.
Training = optax.GradientTransformation | Callable[[Task], Recipe]


def recipe(task: Task, tx: Training) -> Recipe:
    """How `tx` trains models of `task`; a recipe is one already.

    Raises:
      ValueError: for what is neither a transformation nor makes a recipe of a task.
    """
    if isinstance(tx, Recipe):
        return tx
    if not isinstance(tx, optax.GradientTransformation) and not callable(tx):
        raise ValueError(
            f"tx must be an optax transformation, or make a recipe of a task, got {tx!r}"
        )
    return descent(task, tx) if isinstance(tx, optax.GradientTransformation) else tx(task)


def descent(task: Task, tx: optax.GradientTransformation, loss_fn: LossFn | None = None) -> Recipe:
    """Minimises a loss by an optax transformation.

    Args:
      task: what is learned.
      tx: the transformation.
      loss_fn: of the task's variables; default `supervised(task)`.
    """
    step = make_step(supervised(task) if loss_fn is None else loss_fn, tx)
    return Recipe(fresh(task, lambda variables: init_state(variables, tx)), step)


def alternation(task: Task, players: Mapping[str, Player]) -> Recipe:
    """Several players in turn, see `alternate`; parts whose `tx` is `averaged` deploy averages."""
    return Recipe(
        fresh(task, lambda variables: init_players(variables, players)),
        alternate(players),
        lambda state: deploy_players(state, players),
    )


def fresh(task: Task, init: Callable[[Variables], TrainState]):
    """A `Recipe.start`: the state that `init` makes of the variables of `init_variables`."""
    return lambda data, rng, given: init(init_variables(task, data, rng, given))


def fit(
    recipe: Recipe,
    data: Data,
    indices: Array,
    rng: Array,
    *,
    num_epochs: int,
    batch_size: int,
    start: Variables | None = None,
) -> tuple[Variables, dict[str, Array]]:
    """A whole training run as one program: start, `num_epochs` epochs over `data[indices]`, deploy.

    `vmap` it over `(indices, rng)` to train many models at once. Cost: `num_epochs` passes; memory
    of the data, one state, and one batch of activations.

    Args:
      recipe: how it is trained.
      data, indices, rng, num_epochs, batch_size: see `run_epochs`; `rng` also initialises the
        model, but for `start`, see `init_variables`.

    Returns:
      The model and the history, see `run_epochs`.

    Raises:
      ValueError: for no recipe, or if `batch_size` is not between 1 and the number of indices.

    Examples:
      >>> from unlearnjax import models, tasks, training
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> data = {"inputs": jnp.ones((6, 4)), "targets": jnp.arange(6) % 3}
      >>> variables, history = training.fit(
      ...     training.descent(task, optax.sgd(0.1)),
      ...     data,
      ...     jnp.arange(6),
      ...     jax.random.key(0),
      ...     num_epochs=2,
      ...     batch_size=3,
      ... )
      >>> sorted(variables), history["loss"].shape
      (['params'], (2,))
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"recipe must be one, such as training.descent(task, tx), got a {type(recipe).__name__}"
        )
    data_lib.validate_batch_size(batch_size, indices.shape[0])
    state, history = run_epochs(
        recipe.step,
        recipe.start(data, rng, start),
        data,
        indices,
        rng,
        num_epochs=num_epochs,
        batch_size=batch_size,
    )
    return recipe.deploy(state), history


def train(
    task: Task,
    tx: Training,
    data: Data,
    indices: Array,
    rng: Array,
    *,
    num_epochs: int,
    batch_size: int,
    start: Variables | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """`fit` of a task by `tx` that returns the whole state, the optimizer's included.

    Examples:
      >>> from unlearnjax import models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> data = {"inputs": jnp.ones((6, 4)), "targets": jnp.arange(6) % 3}
      >>> state, history = train(task, optax.sgd(0.1), data, jnp.arange(6), jax.random.key(0),
      ...                        num_epochs=2, batch_size=3)
      >>> history["loss"].shape
      (2,)
    """
    return fit(
        recipe(task, tx)._replace(deploy=lambda state: state),
        data,
        indices,
        rng,
        num_epochs=num_epochs,
        batch_size=batch_size,
        start=start,
    )


def init_variables(
    task: Task, data: Data, rng: Array, start: Variables | None = None
) -> dict[str, PyTree]:
    """Fresh variables of `task`; the first example of `data` tells the shapes.

    Args:
      task, data, rng: what is initialised, see `fit`.
      start: collections that join fresh ones, what a task carries (`carried`), or take their
        place: published weights as 'params'. Of nested mappings what is given replaces what is
        fresh, so that a part, such as a head of other classes, may be left out. Floating-point
        numbers become of the fresh ones' type.

    Raises:
      ValueError: for an entry within a fresh collection that this one lacks or that has another
        shape or type there; for parameters that are in no 'params', and for a collection that is
        none of the task's but named almost like one that `start` lacks.
    """
    variables = task.init(jax.random.fold_in(rng, 0), example(task, data))
    if start is not None:
        _validate_start(start, variables)
    placed = {
        name: _replaced(variables[name], value, f"start[{name!r}]") if name in variables else value
        for name, value in (start or {}).items()
    }
    return {**variables, **placed}


def carried(task: Task, data: Data, variables: Variables | None) -> dict[str, PyTree]:
    """The collections that a model carries without having initialised them: a graph, a frozen base.

    They belong to every model that is made in the place of this one; of no model there are none.
    """
    shapes = jax.eval_shape(lambda: init_variables(task, data, jax.random.key(0)))
    return {name: value for name, value in (variables or {}).items() if name not in shapes}


def changed(task: Task, variables: Variables, data: Data) -> frozenset[str]:
    """The collections that training changes: the parameters, and what `apply` does not only carry.

    By tracing alone: computes nothing.
    """
    batch, names = example(task, data), {"params"}

    def probe(variables):
        _, updated = task.apply(variables, batch, jax.random.key(0), True)
        names.update(n for n, v in updated.items() if not trees.same(v, variables.get(n)))
        return ()

    jax.eval_shape(probe, variables)
    return frozenset(names)


def _validate_start(start: Variables, variables: Variables) -> None:
    """Raises `ValueError` for what cannot be meant; what a task only carries has any other name."""
    if not isinstance(start, Mapping):
        raise ValueError(f"start must map names to collections, got a {type(start).__name__}")
    others = [name for name in start if name not in variables]
    params = variables.get("params")
    params = params if isinstance(params, Mapping) else {}
    alike = lambda name: jax.tree.structure(start[name]) == jax.tree.structure(params[name])
    bare = [name for name in others if name in params and alike(name)]
    if bare and len(others) == len(start):
        raise ValueError(f"start must hold parameters as {{'params': ...}}, got {bare[:5]} bare")
    lacking = [name for name in variables if name not in start]
    for name in others:
        meant = checks.near([str(name).lower()], lacking, cutoff=0.8)
        if meant:
            raise ValueError(f"start has no use for {name!r}, a model has {[*variables]}{meant}")


def _replaced(own: PyTree, given: PyTree, name: str) -> PyTree:
    """`own` with the entries of `given`, a part of the same tree."""
    if isinstance(own, Mapping) and isinstance(given, Mapping):
        unknown = [key for key in given if key not in own]
        if unknown:
            raise ValueError(f"{name} must have names among {sorted(own)}, got {unknown[:5]}")
        parts = {key: _replaced(own[key], given[key], f"{name}[{key!r}]") for key in given}
        return {key: parts.get(key, value) for key, value in own.items()}
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (own, given)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{name} must have the shape {shapes[0]}, got {shapes[1]}")
    leaves, structure = jax.tree.flatten(given)
    pairs = zip(leaves, jax.tree.leaves(own), strict=True)
    return structure.unflatten([_typed(leaf, like, name) for leaf, like in pairs])


def _typed(given: Array, like: Array, name: str) -> Array:
    """`given` in the type of `like`, if both are of floating-point numbers; itself if it has it."""
    own, wanted = (x.dtype if hasattr(x, "dtype") else jnp.result_type(x) for x in (given, like))
    if own == wanted:
        return given
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in (own, wanted)):
        raise ValueError(f"{name} must be of type {wanted}, got {own}")
    return jnp.asarray(given, wanted)
