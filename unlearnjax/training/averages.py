"""Averages of parameters, kept beside the optimizer's state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, trees
from unlearnjax.training.step import TrainState
from unlearnjax.types import Array, PyTree, Variables


class AveragedState(NamedTuple):
    """State of `averaged`.

    Attributes:
      inner: the averaged transformation's own.
      count: scalar int32, updates so far.
      average: of the parameters, at least in float32.
    """

    inner: PyTree
    count: Array
    average: PyTree


def averaged(
    tx: optax.GradientTransformation,
    *,
    decay: float | None = None,
    start: int | None = None,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """`tx`, which also averages the parameters that it leads to; `deploy` takes the average.

    It goes around all other transformations, since it must see the final updates. Running
    statistics are not averaged, those of the last step are deployed. Memory: one more copy of the
    parameters, sharded as they are.

    Args:
      tx: any transformation; it is not changed by being averaged.
      decay: of an exponential average, in [0, 1]: `decay * average + (1 - decay) * parameters`
        after every update, from the initial parameters on.
      start: of a uniform average: the mean of the parameters after update number `start`,
        `start + every`, ...; until then the average is the parameters. 0 counts the initial ones.
        One of the two is given.
      every: updates between two that count, >= 1; for `decay` those whose number it divides.

    Raises:
      ValueError: for both or neither of `decay` and `start`, or a value out of range.

    References:
      Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; Izmailov
      et al., "Averaging Weights Leads to Wider Optima", UAI 2018.

    Examples:
      >>> tx = averaged(optax.sgd(1.0), decay=0.5)
      >>> params = jnp.zeros(())
      >>> updates, state = tx.update(jnp.array(-4.0), tx.init(params), params)
      >>> float(optax.apply_updates(params, updates)), float(state.average)
      (4.0, 2.0)
    """
    if (decay is None) == (start is None):
        raise ValueError(f"one of decay and start must be given, got {decay} and {start}")
    checks.whole(every=every)
    checks.at_least(1, every=every)
    if decay is None:
        checks.whole(start=start)
        checks.at_least(0, start=start)
    else:
        checks.share(decay=decay)

    def rate(count: Array) -> Array:
        """How much of the new parameters comes in."""
        if start is None:
            return jnp.where(count % every == 0, 1 - decay, 0.0)
        since = count - start
        mean = jnp.where(since % every == 0, 1 / (since // every + 1), 0.0)
        return jnp.where(since < 0, 1.0, mean)

    def init(params):
        # Copies: a step may reuse the buffers of its state, each of which it can do once.
        return AveragedState(
            tx.init(params),
            jnp.zeros((), jnp.int32),
            jax.tree.map(jnp.copy, trees.widened(params)),
        )

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("averaged needs the parameters, got params=None")
        given = optax.with_extra_args_support(tx)
        updates, inner = given.update(updates, state.inner, params, **extra)
        count = optax.safe_increment(state.count)
        new = rate(count)

        def leaf(average, p):
            if not jnp.issubdtype(p.dtype, jnp.inexact):
                return p
            share = new.astype(average.dtype)
            return (1 - share) * average + share * p

        moved = trees.widened(optax.apply_updates(params, updates))
        return updates, AveragedState(inner, count, jax.tree.map(leaf, state.average, moved))

    return optax.GradientTransformationExtraArgs(init, update)


def deploy(state: TrainState) -> Variables:
    """The model of a state: its parameters, or their average where the optimizer is `averaged`.

    Raises:
      ValueError: if `averaged` is not around all other transformations.
    """
    params = average_of(state.opt_state, state.variables["params"])
    return {**state.variables, "params": params}


def is_averaged(opt_state: PyTree) -> bool:
    """Whether the state is, or has in it, one of `averaged`."""
    found = lambda x: isinstance(x, AveragedState)
    return any(map(found, jax.tree.leaves(opt_state, is_leaf=found)))


def average_of(opt_state: PyTree, params: PyTree) -> PyTree:
    """What `deploy` makes of parameters, in their types."""
    if isinstance(opt_state, AveragedState):
        return jax.tree.map(lambda a, p: a.astype(p.dtype), opt_state.average, params)
    if is_averaged(opt_state):
        raise ValueError(
            "averaged must be around all other transformations, got it within "
            f"{type(opt_state).__name__}"
        )
    return params
