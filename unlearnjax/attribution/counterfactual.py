"""One question for every attributor."""

from unlearnjax import analytic
from unlearnjax.attribution.closed_form import RidgeInfluence
from unlearnjax.attribution.datamodels import Datamodels
from unlearnjax.attribution.trak import Trak
from unlearnjax.types import Array


def predict_counterfactual(attributor: Datamodels | Trak | RidgeInfluence, forget: Array) -> Array:
    """Predicted change of every output if the examples at `forget` were not trained on.

    Args:
      attributor: of any kind.
      forget: `[F]` positions in the training set.

    Returns:
      `[K]` for datamodels, `[n_eval]` for TRAK, `[n_eval, C]` for the closed form.
    """
    if isinstance(attributor, Datamodels):
        return -attributor.masks[:, forget].sum(1) @ attributor.dual
    if isinstance(attributor, Trak):
        return -attributor.scores[:, forget].sum(1)
    features, targets = attributor.features[forget], attributor.targets[forget]
    without, _ = analytic.try_forget(attributor.state, features, targets)
    return attributor.evaluation @ (without.weight - attributor.state.weight)
