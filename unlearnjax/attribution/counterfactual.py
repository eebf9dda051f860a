"""Two questions for every attributor, and what a forget set is to all of them."""

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.attribution import closed_form
from unlearnjax.attribution.closed_form import RidgeInfluence
from unlearnjax.attribution.datamodels import Datamodels
from unlearnjax.attribution.influence import Influence
from unlearnjax.attribution.trak import Trak
from unlearnjax.types import Array

Attributor = Datamodels | Trak | Influence | RidgeInfluence


def predict_counterfactual(attributor: Attributor, forget: Array) -> Array:
    """Predicted change of every output if the examples at `forget` were not trained on.

    Args:
      attributor: of any kind.
      forget: `[F]` positions in the training set, integers in 0..N-1. One that is named twice is
        one; in compiled code one that is out of range is dropped. F may be 0.

    Returns:
      `[n_eval, C]`.

    Raises:
      ValueError: for positions that are not integers of one axis (a mask, say) and, outside of
        compiled code, for those out of range; of `ridge_influence`, as `analytic.forget`.
    """
    rows, named = _rows(forget, num_train(attributor))
    if isinstance(attributor, Datamodels):
        return -jnp.where(named[:, None, None], attributor.weight[rows], 0).sum(0)
    if isinstance(attributor, Trak):
        return -jnp.where(named, attributor.scores[..., rows], 0).sum(-1)
    if isinstance(attributor, Influence):
        return attributor.change(jnp.zeros(attributor.like.shape).at[rows].max(named * 1.0))
    return closed_form.change(attributor, rows, named)


def predict_subsets(attributor: Attributor, masks: Array) -> Array:
    """`[S, n_eval, C]`: predicted outputs of models trained on the subsets `masks` `[S, N]`.

    Of datamodels the outputs themselves; else the change from training on all, which ranks subsets
    the same (`linear_datamodeling_score`). Masks are bool or 0/1. Of `ridge_influence` subsets that
    rounding hides are NaN.

    Raises:
      ValueError: for masks of another shape.
    """
    masks, size = jnp.asarray(masks).astype(jnp.float32), num_train(attributor)
    if masks.ndim != 2 or masks.shape[1] != size:
        raise ValueError(f"masks must be [subsets, {size}], got {masks.shape}")
    if isinstance(attributor, Datamodels):
        return jnp.tensordot(masks, attributor.weight, 1) + attributor.bias
    if isinstance(attributor, Trak):
        return -jnp.einsum("sn,ecn->sec", 1.0 - masks, attributor.scores)
    if isinstance(attributor, Influence):
        return jax.lax.map(attributor.change, 1.0 - masks)
    change = lambda gone: closed_form.change(attributor, jnp.arange(size), gone)
    return jax.lax.map(change, 1.0 - masks)


def num_train(attributor: Attributor) -> int:
    """N, the number of examples whose removal it predicts."""
    if isinstance(attributor, Datamodels):
        return attributor.weight.shape[0]
    if isinstance(attributor, Trak):
        return attributor.scores.shape[-1]
    return len(attributor.like if isinstance(attributor, Influence) else attributor.features)


def _rows(forget: Array, size: int) -> tuple[Array, Array]:
    """`[F]` positions in 0..size-1, and which of them are named for the first time and exist."""
    if not checks.traced(forget):
        forget = np.asarray(forget)
        if forget.size == 0:
            forget = forget.astype(np.int32)
    if forget.ndim != 1 or not jnp.issubdtype(forget.dtype, jnp.integer):
        raise ValueError(
            f"forget must be [F] integers, positions in the training set, got {forget.dtype} "
            f"{forget.shape}"
        )
    if not checks.traced(forget):
        wrong = forget[(forget < 0) | (forget >= size)]
        if wrong.size:
            raise ValueError(f"forget must lie in 0..{size - 1}, got {wrong[:5].tolist()}")
    forget = jnp.asarray(forget).astype(jnp.int32)
    exists = (forget >= 0) & (forget < size)
    order = jnp.argsort(forget, stable=True)
    ordered = forget[order]
    first = jnp.ones(forget.shape, bool).at[order[1:]].set(ordered[1:] != ordered[:-1])
    return jnp.where(exists, forget, 0), exists & first
