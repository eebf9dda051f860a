"""Model + loss + metrics -> Task."""

from unlearnjax.tasks.adapters import Model, features, from_linen, from_nnx
from unlearnjax.tasks.autoencoding import autoencoding
from unlearnjax.tasks.classification import classification, margin
from unlearnjax.tasks.layers import layer_names
from unlearnjax.tasks.regression import regression

__all__ = [
    "Model",
    "autoencoding",
    "classification",
    "features",
    "from_linen",
    "from_nnx",
    "layer_names",
    "margin",
    "regression",
]
