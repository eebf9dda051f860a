"""Which data are hardest to forget: a bi-level search over what is to be forgotten.

Fan et al., "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning", ECCV
2024 (arXiv 2403.07362).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearnjax import checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.models import layers
from unlearnjax.selection.lower import Lower
from unlearnjax.selection.projection import project, top
from unlearnjax.types import Array, Data, Task, Variables
from unlearnjax.unlearning import objectives

MODES = ("sign", "unrolled", "implicit")
DIRECTIONS = ("worst", "easiest")


class Selection(NamedTuple):
    """What a search found.

    Attributes:
      chosen: `[G]`, 1 for the `size` groups that are selected, else 0.
      weights: `[G]` in [0, 1], the relaxed selection that was rounded.
      objective: `[num_epochs]`, the upper objective at the weights before each update.
    """

    chosen: Array
    weights: Array
    objective: Array


def search(
    task: Task,
    variables: Variables,
    data: Data,
    rng: Array,
    *,
    size: int,
    lower: Lower,
    tx: optax.GradientTransformation,
    groups: Array | None = None,
    mode: str = "sign",
    direction: str = "worst",
    num_epochs: int = 10,
    learning_rate: float = 0.01,
    gamma: float = 0.0,
    round_every: int = 20,
    start: Array | None = None,
    **options,
) -> Selection:
    """Selects `size` of G groups so that a model which unlearned them still fits them (or not).

    Minimises `sum_g w_g mean_{i in g} loss_i(theta(w)) + gamma |w|^2` over `{w in [0, 1]^G, sum w =
    size}` by projected gradient steps; theta(w) is what `lower` with weights w makes of the given
    model, which the lower level restarts from in every upper epoch. Pure: jit it, vmap it over
    models and keys. For another task than classification (say, a generative one, whose groups are
    prompts) nothing changes but `task` and the terms of `lower`.

    Args:
      task, variables, data, lower, tx, groups, mode, direction, gamma: see `hypergradient`.
      rng: key.
      size: k, how many groups are selected.
      num_epochs: upper updates.
      learning_rate: of the weights.
      round_every: after so many upper updates the weights are rounded to the `size` largest.
      start: `[G]` weights to start from. `None` is `size / G` for every group, so that the result
        does not depend on a draw; the published code starts from a random selection of `size`.
      options: reference, lower_epochs, batch_size, damping, cg_steps of `hypergradient`.

    Returns:
      The selection. Cost: `num_epochs` times that of `hypergradient`.

    Raises:
      ValueError: for a value out of range, groups of the wrong length, or data without targets.

    Examples:
      >>> from unlearnjax import models, selection, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=2, hidden=(8,))))
      >>> inputs = jax.random.normal(jax.random.key(0), (12, 4))
      >>> data = {"inputs": inputs, "targets": jnp.arange(12) % 2}
      >>> found = selection.search(
      ...     task,
      ...     task.init(jax.random.key(1), data),
      ...     data,
      ...     jax.random.key(2),
      ...     size=3,
      ...     lower=selection.lower.gradient_ascent(),
      ...     tx=optax.sgd(0.05),
      ...     num_epochs=2,
      ... )
      >>> int(found.chosen.sum())
      3
    """
    checks.at_least(1, num_epochs=num_epochs, round_every=round_every)
    checks.positive(learning_rate=learning_rate)
    groups, num_groups = _grouped(data, groups)
    if not 1 <= size < num_groups:
        raise ValueError(f"size must lie in [1, {num_groups}), got {size}")
    _validate_targets(data, lower)
    label_rng, rng = jax.random.split(rng)
    data = _relabelled(task, variables, data, label_rng)

    def epoch(weights, number):
        value, slope = hypergradient(
            task,
            variables,
            data,
            weights,
            jax.random.fold_in(rng, number),
            lower=lower,
            tx=tx,
            groups=groups,
            mode=mode,
            direction=direction,
            gamma=gamma,
            **options,
        )
        weights = project(weights - learning_rate * slope, size)
        rounds = (number + 1) % round_every == 0
        return jnp.where(rounds, top(weights, size), weights), value

    if start is None:
        start = jnp.full(num_groups, size / num_groups)
    if start.shape != (num_groups,):
        raise ValueError(f"start must be [{num_groups}], got {start.shape}")
    weights, values = jax.lax.scan(epoch, start, jnp.arange(num_epochs))
    return Selection(top(weights, size), weights, values)


def hypergradient(
    task: Task,
    variables: Variables,
    data: Data,
    weights: Array,
    rng: Array,
    *,
    lower: Lower,
    tx: optax.GradientTransformation,
    groups: Array | None = None,
    mode: str = "sign",
    direction: str = "worst",
    gamma: float = 0.0,
    reference: Array | None = None,
    lower_epochs: int = 2,
    batch_size: int = 256,
    damping: float = 1e-3,
    cg_steps: int = 20,
) -> tuple[Array, Array]:
    """The upper objective of `search` at `weights`, and its gradient.

    Args:
      task: gives the loss.
      variables: the trained model.
      data: `[N, ...]` with targets, the training data; `relabelled` `[N]` where there are wrong
        labels already.
      weights: `[G]`.
      rng: key.
      lower: the unlearning objective, see `selection.lower`.
      tx: optax transformation of the lower level.
      groups: `[N]` int in [0, G): classes, people, ... that are selected as wholes; `None`: every
        example by itself.
      mode: how theta depends on w. 'sign', the paper's: the lower level takes signs of gradients
        (of zeros a random one), which do not change with w, so the gradient is the loss of every
        group. 'unrolled': exactly, through all lower steps. 'implicit': as at a minimum of the
        lower level, by conjugate gradients; for convex ones, if `tx` and `lower_epochs` reach it.
      direction: 'worst', or 'easiest' (the loss of what is selected is maximised).
      gamma: >= 0, of `|w|^2`.
      reference: `[N]`: what to take the losses relative to; `None`, the paper's, is 0. With the
        losses that examples have under models which never saw them, the worst set is where
        unlearned models are furthest from the oracle, not merely where they fit.
      lower_epochs, batch_size: of the lower level.
      damping, cg_steps: of 'implicit'.

    Returns:
      Value `[]` and gradient `[G]`. Cost: `lower_epochs` training passes and one forward pass
      ('sign'); about four times the former ('unrolled', which keeps the parameters of every lower
      step and recomputes the rest); `cg_steps` passes more ('implicit').

    Raises:
      ValueError: see `search`.
    """
    checks.one_of(mode=(mode, MODES), direction=(direction, DIRECTIONS))
    checks.at_least(1, lower_epochs=lower_epochs, batch_size=batch_size, cg_steps=cg_steps)
    checks.at_least(0, gamma=gamma, damping=damping)
    groups, num_groups = _grouped(data, groups)
    for name, given, size in (
        ("weights", weights, num_groups),
        ("reference", reference, len(groups)),
    ):
        if given is not None and given.shape != (size,):
            raise ValueError(f"{name} must be [{size}], got {given.shape}")
    _validate_targets(data, lower)
    label_rng, signs_rng, order_rng = jax.random.split(rng, 3)
    if "relabelled" not in data:
        data = _relabelled(task, variables, data, label_rng)
    sign = 1.0 if direction == "worst" else -1.0
    if mode != "sign":
        task = _differentiated_twice(task)
    task = tasks.expected(task)
    problem = _Problem(task, variables, data, groups, lower, min(batch_size, len(groups)))
    transform = optax.chain(_signs(signs_rng), tx) if mode == "sign" else tx
    unlearned = lambda w: _descend(problem, w, transform, order_rng, lower_epochs)

    def upper(weights, model):
        losses = _losses(problem, model)
        losses = losses if reference is None else losses - reference
        losses = _by_group(losses, groups, num_groups)
        return sign * weights @ losses + gamma * weights @ weights, losses

    if mode == "unrolled":
        return jax.value_and_grad(lambda w: upper(w, unlearned(w))[0])(weights)
    model = unlearned(weights)
    value, losses = upper(weights, model)
    direct = sign * losses + 2 * gamma * weights
    if mode == "sign":
        return value, direct
    outer = jax.grad(lambda p: upper(weights, {**model, "params": p})[0])(model["params"])
    return value, direct + _implicit(problem, weights, model, outer, damping, cg_steps)


def _differentiated_twice(task: Task) -> Task:
    """The same, with convolutions whose gradients have fast gradients."""

    def apply(*args):
        with layers.by_patches():
            return task.apply(*args)

    return task._replace(apply=apply)


class _Problem(NamedTuple):
    task: Task
    original: Variables
    data: Data
    groups: Array
    lower: Lower
    batch_size: int


def _descend(problem: _Problem, weights, tx, rng, num_epochs: int) -> Variables:
    """The lower level, differentiable in the weights."""
    task, original, lower = problem.task, problem.original, problem.lower

    def loss_fn(variables, batch, key):
        del key
        losses = lower.losses(task, variables, original, batch, batch["selected"])
        if lower.penalty is not None:
            losses += lower.penalty(variables["params"], original["params"])
        return losses, ({}, variables)

    state, _ = training.run_epochs(
        jax.checkpoint(training.make_step(loss_fn, tx)),
        training.init_state(original, tx),
        {**problem.data, "selected": weights[problem.groups]},
        jnp.arange(len(problem.groups)),
        rng,
        num_epochs=num_epochs,
        batch_size=problem.batch_size,
    )
    return state.variables


def _losses(problem: _Problem, model: Variables) -> Array:
    """`[N]`, one forward pass."""

    @jax.checkpoint
    def losses(params, batch):
        outputs, _ = problem.task.apply({**model, "params": params}, batch, None, False)
        return problem.task.loss(outputs, batch)

    return training.map_batches(partial(losses, model["params"]), problem.data, problem.batch_size)


def _implicit(problem: _Problem, weights, model: Variables, outer, damping: float, steps: int):
    """`- d/dw <grad_theta lower, (H + damping I)^-1 outer>`, H the lower level's Hessian."""
    task, original, lower = problem.task, problem.original, problem.lower
    data = {**problem.data, "selected": weights[problem.groups]}

    def per_example(params, selected=None):
        @jax.checkpoint
        def losses(params, batch):
            given = (
                batch["selected"]
                if selected is None
                else jnp.full_like(batch["selected"], selected)
            )
            return lower.losses(task, {**model, "params": params}, original, batch, given)

        return training.map_batches(partial(losses, params), data, problem.batch_size)

    def mean(params):
        penalty = 0.0 if lower.penalty is None else lower.penalty(params, original["params"])
        return per_example(params).mean() + penalty

    params = model["params"]

    def damped(vector):
        product = jax.jvp(jax.grad(mean), (params,), (vector,))[1]
        return jax.tree.map(lambda h, v: h + damping * v, product, vector)

    solved = jax.scipy.sparse.linalg.cg(damped, outer, maxiter=steps, tol=1e-8)[0]
    # The lower loss is linear in the weights: its slope is what selecting changes.
    slope = lambda p: per_example(p, 1.0) - per_example(p, 0.0)
    along = jax.jvp(slope, (params,), (solved,))[1] / len(problem.groups)
    return -jax.ops.segment_sum(along, problem.groups, len(weights))


def _signs(rng: Array) -> optax.GradientTransformation:
    """Signs of the gradients; for zeros a random one, drawn once."""

    def init(params):
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(rng, len(leaves))
        draw = lambda k, x: jax.random.rademacher(k, x.shape, x.dtype)
        return structure.unflatten([draw(k, x) for k, x in zip(keys, leaves, strict=True)])

    def update(updates, state, params=None):
        del params
        signed = lambda x, random: jnp.where(x == 0, random, jnp.sign(x))
        return jax.tree.map(signed, updates, state), state

    return optax.GradientTransformation(init, update)


def _relabelled(task: Task, variables: Variables, data: Data, rng: Array) -> Data:
    """The data with a random wrong label of every example, where there are classes."""
    targets = jnp.asarray(data["targets"])
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        return data
    classes = tasks.num_classes(training.output_shapes(task, variables, data))
    return {**data, "relabelled": objectives.random_targets(rng, targets, classes)}


def _grouped(data: Data, groups) -> tuple[Array, int]:
    """Groups of all examples, and how many there are. Computed once, before anything is traced."""
    size = data_lib.num_examples(data)
    if groups is None:
        return np.arange(size), size
    groups = np.asarray(groups)
    if groups.shape != (size,) or not np.issubdtype(groups.dtype, np.integer):
        raise ValueError(
            f"groups must be [{size}] integers, got {groups.dtype} of shape {groups.shape}"
        )
    number = len(np.unique(groups))
    if groups.min() != 0 or groups.max() != number - 1:
        raise ValueError(
            f"groups must be numbered 0, 1, ... without gaps, got {number} of them from "
            f"{groups.min()} to {groups.max()}"
        )
    return groups, number


def _validate_targets(data: Data, lower: Lower) -> None:
    if "targets" not in data:
        needing = "the lower objective and the " if lower.labels else "the "
        raise ValueError(f"{needing}loss of what is selected need 'targets', got {sorted(data)}")
    if lower.relabels and not jnp.issubdtype(data["targets"].dtype, jnp.integer):
        kind = data["targets"].dtype
        raise ValueError(f"a lower objective with wrong labels needs classes, got {kind} targets")


def _by_group(losses: Array, groups: Array, num_groups: int) -> Array:
    """`[G]` means."""
    sums = jax.ops.segment_sum(losses, groups, num_groups)
    sizes = jax.ops.segment_sum(jnp.ones_like(losses), groups, num_groups)
    return sums / jnp.maximum(sizes, 1)
