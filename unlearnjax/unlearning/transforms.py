"""Gradient transformations for unlearning, as optax has them.

For noise on gradients use `optax.add_noise`, for weight decay `optax.add_decayed_weights`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from unlearnjax import checks, trees
from unlearnjax.training import averages
from unlearnjax.types import Array, PyTree


def masked(tx: optax.GradientTransformation, mask: PyTree) -> optax.GradientTransformation:
    """`tx`, with updates kept only where `mask` is 1.

    Applied after everything else, so that what is masked out stays bit-equal whatever momentum or
    weight decay `tx` has.

    Args:
      tx: any transformation.
      mask: a tree like the parameters, of 0 and 1, or a prefix of it (a scalar for a whole leaf).

    Raises:
      ValueError: at `init`, if the mask's structure or shapes are not the parameters', or `tx` is
        `training.averaged`, which belongs around this.
    """

    def init(params):
        try:
            same = jax.tree.map(
                lambda m, p: jnp.broadcast_shapes(m.shape, p.shape) == p.shape,
                jax.tree.map(jnp.asarray, mask),
                params,
            )
        except ValueError as error:
            raise ValueError(
                f"mask must have the structure of the parameters, {jax.tree.structure(params)}, "
                f"got {jax.tree.structure(mask)}"
            ) from error
        if not all(jax.tree.leaves(same)):
            raise ValueError("mask must have the shapes of the parameters")
        state = tx.init(params)
        if averages.is_averaged(state):  # of updates that are masked out, too
            raise ValueError(
                "tx must not be averaged within a mask: it would average other updates"
            )
        return state

    def update(updates, state, params=None, **extra):
        updates, state = optax.with_extra_args_support(tx).update(updates, state, params, **extra)
        updates = jax.tree.map(lambda u, m: jnp.where(m > 0, u, 0).astype(u.dtype), updates, mask)
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


def saliency_mask(gradient: PyTree, keep: float) -> PyTree:
    """1 for the share `keep` of all parameters whose gradient is largest in magnitude.

    Fan et al., "SalUn", ICLR 2024 (arXiv 2310.12508), equation 3, with the threshold given as a
    share: keep=0.5 is their median. Ties at the threshold are kept.

    Args:
      gradient: of the forget loss at the original model.
      keep: in (0, 1].
    """
    checks.part(keep=keep)
    return top_share(jax.tree.map(jnp.abs, gradient), keep)


def top_share(scores: PyTree, keep: float | Array) -> PyTree:
    """0/1 tree: the share `keep` of entries with the largest scores, over all leaves together.

    At least one entry; ties at the threshold are kept. `keep` may be traced.
    """
    flat = jnp.sort(jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(scores)]))
    count = jnp.clip(jnp.round(keep * flat.size), 1, flat.size).astype(jnp.int32)
    threshold = flat[flat.size - count]
    return jax.tree.map(lambda s: (s >= threshold).astype(jnp.float32), scores)


def layer_mask(params: PyTree, layers: Sequence[str]) -> PyTree:
    """1 for every parameter below one of the named layers, 0 elsewhere.

    Args:
      params: nested mappings.
      layers: dotted paths of modules or parameters, e.g. 'Dense_1' or '_Block_0.Conv_1', see
        `trees.chosen`.

    Raises:
      ValueError: for a name that matches nothing; it lists the names that exist.

    Examples:
      >>> params = {"Dense_0": {"kernel": jnp.ones(2)}, "Dense_1": {"kernel": jnp.ones(2)}}
      >>> jax.tree.map(float, layer_mask(params, ["Dense_1"]))
      {'Dense_0': {'kernel': 0.0}, 'Dense_1': {'kernel': 1.0}}
    """
    chosen = trees.chosen(params, layers, "layers")
    return jax.tree.unflatten(jax.tree.structure(params), [np.float32(c) for c in chosen])


class _StepState(NamedTuple):
    """Counts steps."""

    count: Array


def add_l1(coefficient: float | optax.Schedule) -> optax.GradientTransformation:
    """Adds `coefficient * sign(theta)` to gradients: an L1 penalty that may follow a schedule."""

    def init(params):
        del params
        return _StepState(jnp.zeros((), jnp.int32))

    def update(updates, state, params):
        value = coefficient(state.count) if callable(coefficient) else coefficient
        penalty = lambda p: jnp.asarray(value * jnp.sign(p))
        updates = jax.tree.map(lambda u, p: u + penalty(p).astype(u.dtype), updates, params)
        return updates, _StepState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def stay_within(low: float, high: float) -> optax.GradientTransformation:
    """Clips what parameters become to `[low, high]`: last in a chain, projected gradient descent.

    Raises:
      ValueError: unless `low <= high`.
    """
    if not low <= high:
        raise ValueError(f"low must be at most high, got {low} and {high}")

    def update(updates, params):
        return jax.tree.map(lambda u, p: jnp.clip(p + u, low, high) - p, updates, params)

    return optax.stateless(update)


def project_conflict(
    direction: PyTree | None = None, *, per_leaf: bool = False, strength: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Removes from the gradient its component against `direction`, where the two conflict.

    If `<g, d> < 0`, then `g - strength <g, d> / <d, d> d`, else `g`: the projection of Yu et al.,
    "Gradient Surgery for Multi-Task Learning", NeurIPS 2020. With `d` the gradient of the retain
    loss, descent along the result does not raise the retain loss to first order.

    Args:
      direction: a tree like the parameters; `None` takes the extra argument `against` of every
        update, e.g. the gradient of a second loss in the same step, see `training.Player`.
      per_leaf: whether each leaf is projected by itself, not all of them together.
      strength: share of the component that is removed, in [0, 1].

    Raises:
      ValueError: for a value out of range, at an update without a direction.
    """
    checks.share(strength=strength)

    def scale(u, d):
        inner, squared = optax.tree.vdot(u, d), optax.tree.norm(d, squared=True)
        return strength * jnp.minimum(inner, 0) / jnp.maximum(squared, 1e-30)

    def update(updates, state, params=None, *, against=None, **extra):
        del params, extra
        given = against if direction is None else direction
        if given is None:
            raise ValueError("project_conflict needs a direction or the extra argument against")
        if per_leaf:
            scales = jax.tree.map(scale, updates, given)
        else:
            whole = scale(updates, given)
            scales = jax.tree.map(lambda _: whole, updates)
        remove = lambda u, d, s: u - (s * d).astype(u.dtype)
        return jax.tree.map(remove, updates, given, scales), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def sharpness_aware(
    tx: optax.GradientTransformation, radius: float = 0.05
) -> optax.GradientTransformation:
    """Every second step climbs by `radius` along the normalised gradient, the next descends by `tx`
    with the gradient found there (Foret et al., ICLR 2021, as `optax.contrib.sam`). An epoch makes
    half as many updates.
    """
    checks.positive(radius=radius)
    in_types = optax.stateless(lambda u, p: jax.tree.map(lambda u, p: u.astype(p.dtype), u, p))
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(radius), in_types)
    return optax.contrib.sam(tx, climb, sync_period=2)
