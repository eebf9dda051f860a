"""Model + loss + metrics -> Task."""

from unlearnjax.tasks.adapters import (
    Model,
    features,
    from_linen,
    from_nnx,
    logits,
    num_classes,
)
from unlearnjax.tasks.autoencoding import autoencoding
from unlearnjax.tasks.classification import classification, margin
from unlearnjax.tasks.draws import augmented, drawn, expected, keyed
from unlearnjax.tasks.generation import generate
from unlearnjax.tasks.hooks import capture, edit, tap, with_features
from unlearnjax.tasks.layers import layer_names
from unlearnjax.tasks.regression import regression

__all__ = [
    "Model",
    "augmented",
    "autoencoding",
    "capture",
    "classification",
    "drawn",
    "edit",
    "expected",
    "features",
    "from_linen",
    "from_nnx",
    "generate",
    "keyed",
    "layer_names",
    "logits",
    "margin",
    "num_classes",
    "regression",
    "tap",
    "with_features",
]
