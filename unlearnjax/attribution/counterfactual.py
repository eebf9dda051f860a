"""Two questions for every attributor."""

import jax
import jax.numpy as jnp

from unlearnjax import analytic
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
      forget: `[F]` positions in the training set.

    Returns:
      `[n_eval, C]`.
    """
    forget = jnp.asarray(forget)
    if isinstance(attributor, Datamodels):
        return -attributor.weight[forget].sum(0)
    if isinstance(attributor, Trak):
        return -attributor.scores[..., forget].sum(-1)
    if isinstance(attributor, Influence):
        removed = jnp.zeros(attributor.like.shape).at[forget].set(1.0)
        return attributor.change(removed)
    features, targets = attributor.features[forget], attributor.targets[forget]
    without, _ = analytic.try_forget(attributor.state, features, targets)
    return attributor.evaluation @ (without.weight - attributor.state.weight)


def predict_subsets(attributor: Datamodels | Trak | Influence, masks: Array) -> Array:
    """`[S, n_eval, C]`: predicted outputs of models trained on the subsets `masks` `[S, N]`.

    Of datamodels the outputs themselves; else the change from training on all, which ranks subsets
    the same (`linear_datamodeling_score`).
    """
    if isinstance(attributor, Datamodels):
        return jnp.tensordot(masks.astype(jnp.float32), attributor.weight, 1) + attributor.bias
    if isinstance(attributor, Trak):
        return -jnp.einsum("sn,ecn->sec", 1.0 - masks, attributor.scores)
    return jax.lax.map(attributor.change, 1.0 - masks)
