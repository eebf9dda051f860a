"""Model + loss + metrics -> Task."""

from unlearnjax.tasks.adapted import adapted, as_base, channel_masks
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
from unlearnjax.tasks.contrastive import contrastive
from unlearnjax.tasks.diffusion import diffusion
from unlearnjax.tasks.draws import augmented, drawn, expected, keyed
from unlearnjax.tasks.generation import generate
from unlearnjax.tasks.graph import link_prediction, node_classification, on_nodes
from unlearnjax.tasks.hooks import capture, edit, tap, with_features
from unlearnjax.tasks.language_modelling import language_modelling, over_answer
from unlearnjax.tasks.layers import layer_names
from unlearnjax.tasks.lora import lora
from unlearnjax.tasks.regression import regression
from unlearnjax.tasks.trained import merged, split, trained

__all__ = [
    "Model",
    "adapted",
    "as_base",
    "augmented",
    "autoencoding",
    "capture",
    "channel_masks",
    "classification",
    "contrastive",
    "diffusion",
    "drawn",
    "edit",
    "expected",
    "features",
    "from_linen",
    "from_nnx",
    "generate",
    "keyed",
    "language_modelling",
    "layer_names",
    "link_prediction",
    "logits",
    "lora",
    "margin",
    "merged",
    "node_classification",
    "num_classes",
    "on_nodes",
    "over_answer",
    "regression",
    "split",
    "tap",
    "trained",
    "with_features",
]
