"""Flax Linen models. All but `VAE` return `{'logits': [B, C], 'features': [B, D]}`."""

import difflib
import inspect
from functools import partial
from typing import Any

from unlearnjax.models import layers
from unlearnjax.models.convnet import ConvNet
from unlearnjax.models.mlp import MLP
from unlearnjax.models.resnet import ResNet
from unlearnjax.models.vae import VAE
from unlearnjax.models.vit import ViT

BY_NAME = {
    "mlp": MLP,
    "convnet": ConvNet,
    "resnet18": ResNet,
    "resnet18_groupnorm": partial(ResNet, norm="group"),
    "vit_tiny": ViT,
}


def by_name(name: str, **options: Any):
    """The model `name`, built with `options`; raises `ValueError` that lists the valid ones."""
    _validate_name(name)
    allowed = default_options(name).keys() | {"num_classes", "dtype", "axis_name"}
    for option in sorted(set(options) - allowed):
        raise ValueError(
            f"{option!r} is not an option of model {name!r}; options are {sorted(allowed)}"
        )
    return BY_NAME[name](**options)


def default_options(name: str) -> dict[str, Any]:
    """The options of the model `name` with their defaults, without those of the problem."""
    _validate_name(name)
    parameters = inspect.signature(BY_NAME[name]).parameters
    without = ("num_classes", "dtype", "axis_name", "parent", "name")
    return {key: p.default for key, p in parameters.items() if key not in without}


def _validate_name(name: str) -> None:
    if name not in BY_NAME:
        close = difflib.get_close_matches(name, BY_NAME, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"model must be one of {sorted(BY_NAME)}, got {name!r}{hint}")


__all__ = [
    "BY_NAME",
    "MLP",
    "VAE",
    "ConvNet",
    "ResNet",
    "ViT",
    "by_name",
    "default_options",
    "layers",
]
