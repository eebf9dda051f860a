"""From training subsets to predicted outputs: what would the model say without these examples?

Every attributor answers `predict_counterfactual(attributor, forget) -> [n_eval, C]`: the predicted
change of the outputs if the examples at `forget` were removed from the training set.
"""

from unlearnjax.attribution.closed_form import RidgeInfluence, ridge_influence
from unlearnjax.attribution.components import principal_projections
from unlearnjax.attribution.counterfactual import predict_counterfactual, predict_subsets
from unlearnjax.attribution.datamodels import Datamodels, lasso_datamodels, ridge_datamodels
from unlearnjax.attribution.influence import Influence, influence
from unlearnjax.attribution.outputs import logit_output, margin_output
from unlearnjax.attribution.scores import linear_datamodeling_score, score_interval
from unlearnjax.attribution.trak import Trak, project_gradients, trak

__all__ = [
    "Datamodels",
    "Influence",
    "RidgeInfluence",
    "Trak",
    "influence",
    "lasso_datamodels",
    "linear_datamodeling_score",
    "logit_output",
    "margin_output",
    "predict_counterfactual",
    "predict_subsets",
    "principal_projections",
    "project_gradients",
    "ridge_datamodels",
    "ridge_influence",
    "score_interval",
    "trak",
]
