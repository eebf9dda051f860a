"""From training subsets to predicted outputs: what would the model say without these examples?

Every attributor answers `predict_counterfactual(attributor, forget) -> [n_eval, C]`: the predicted
change of the outputs if the examples at `forget` were removed from the training set.
"""

from unlearnjax.attribution.closed_form import RidgeInfluence, ridge_influence
from unlearnjax.attribution.counterfactual import predict_counterfactual
from unlearnjax.attribution.datamodels import (
    Datamodels,
    fit_datamodels,
    lasso,
    predict_subsets,
)
from unlearnjax.attribution.scores import linear_datamodeling_score, score_interval
from unlearnjax.attribution.trak import Trak, project_gradients, trak

__all__ = [
    "Datamodels",
    "RidgeInfluence",
    "Trak",
    "fit_datamodels",
    "lasso",
    "linear_datamodeling_score",
    "predict_counterfactual",
    "predict_subsets",
    "project_gradients",
    "ridge_influence",
    "score_interval",
    "trak",
]
