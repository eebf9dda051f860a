"""Flax Linen models.

Those of `BY_NAME`, of images, and of `TEXT_CLASSIFIERS`, of tokens, return
`{'logits': [B, C], 'features': [B, D]}`, those of `DENOISERS`, of noised images, times and
conditions, `{'prediction': [B, H, W, C]}`, as does `TextDiT` of prompts, those of `DECODERS`, of
tokens, `{'logits': [B, T, V], ...}`, and those of `GRAPH_NETS`, of graphs, what `models.graph`
says.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax import nnx

from unlearnjax import checks, importing
from unlearnjax.models import layers
from unlearnjax.models.clip import CLIP
from unlearnjax.models.convnet import ConvNet
from unlearnjax.models.decoder import Decoder, DecoderConfig, RopeScaling, sized
from unlearnjax.models.dit import DiT
from unlearnjax.models.generator import Generator
from unlearnjax.models.graph import GAT, GCN, GIN, SGC
from unlearnjax.models.mlp import MLP
from unlearnjax.models.resnet import ResNet
from unlearnjax.models.text_classifier import TextClassifier
from unlearnjax.models.text_dit import CrossDiT, TextDiT
from unlearnjax.models.text_encoder import TextEncoder
from unlearnjax.models.unet import UNet
from unlearnjax.models.vae import VAE
from unlearnjax.models.vit import ViT

BY_NAME = {
    "mlp": MLP,
    "convnet": ConvNet,
    "convnet_batchnorm": functools.partial(ConvNet, norm="batch"),
    "resnet18": ResNet,
    "resnet18_groupnorm": functools.partial(ResNet, norm="group"),
    "vit_tiny": ViT,
    **{
        f"vit_{size}": functools.partial(
            ViT,
            patch_size=16,
            width=width,
            depth=depth,
            num_heads=heads,
            pool="cls",
            exact_gelu=True,
            norm_eps=1e-12,
        )
        for size, width, depth, heads in (
            ("small", 384, 12, 6),
            ("base", 768, 12, 12),
            ("large", 1024, 24, 16),
        )
    },
}

# Of sentences, `tasks.classification`.
TEXT_CLASSIFIERS = {
    "text_classifier": TextClassifier,
    "text_transformer": functools.partial(TextClassifier, depth=2),
}

# Of `tasks.diffusion`.
DENOISERS = {"dit": DiT, "unet": UNet}

# Of `tasks.node_classification` and `tasks.link_prediction`.
GRAPH_NETS = {"gcn": GCN, "gat": GAT, "gin": GIN, "sgc": SGC}

# Of `tasks.language_modelling`.
DECODERS = {"decoder": sized}

# Arguments that the problem decides, or Flax itself.
_GIVEN = ("num_classes", "dtype", "axis_name", "rngs", "parent", "name")


def by_name(name: str, **options: Any) -> nn.Module | Callable[[nnx.Rngs], nnx.Module]:
    """The model `name`, built with `options`.

    Args:
      name: of `BY_NAME`, `TEXT_CLASSIFIERS`, `DENOISERS`, `DECODERS` or `GRAPH_NETS`, or
        'module:Class', imported: a Linen or NNX module class. Its arguments `num_classes` and
        `dtype`, if it has them, are given; others are options.
      **options: by argument; a `dtype` or `axis_name` of `None`, and `num_classes`, are left out
        where the class has none.

    Returns:
      For Linen the module; for NNX what `tasks.from_nnx` takes.

    Raises:
      ValueError: that lists the valid names or options, or says what cannot be imported.

    Examples:
      >>> by_name("mlp", num_classes=3, hidden=(8,)).hidden
      (8,)
    """
    constructor = _constructor(name)
    has = _parameters(constructor)
    allowed = default_options(name).keys() | {"num_classes", "dtype", "axis_name"}
    for option in sorted(options.keys() - allowed):
        raise ValueError(
            f"{option!r} is not an option of model {name!r}; options are {sorted(allowed)}"
        )
    for option in ("dtype", "axis_name"):
        if options.get(option) is not None and option not in has:
            raise ValueError(f"model {name!r} has no argument {option}, got {options[option]}")
    options = {key: value for key, value in options.items() if key in has}
    if _is_nnx(constructor):
        return lambda rngs: constructor(**options, rngs=rngs)
    return constructor(**options)


def default_options(name: str) -> dict[str, Any]:
    """The options of the model `name` with their defaults, without those of the problem.

    Raises:
      ValueError: for an unknown name, or an option of a class of your own that has no default.
    """
    return importing.defaults(_parameters(_constructor(name)), _GIVEN, f"model {name!r}")


def _constructor(name: str) -> Callable[..., Any]:
    if importing.is_path(name):
        return _imported(name)
    known = {**BY_NAME, **TEXT_CLASSIFIERS, **DENOISERS, **DECODERS, **GRAPH_NETS}
    if name not in known:
        raise ValueError(
            f"model must be one of {sorted(known)} or 'module:Class', got {name!r}"
            + checks.near([name], known)
        )
    return known[name]


def _imported(name: str) -> type:
    found = importing.imported(name)
    if not (isinstance(found, type) and issubclass(found, nn.Module | nnx.Module)):
        raise ValueError(f"model {name!r} must be a class of Flax Linen or NNX, got {found!r}")
    return found


def _parameters(constructor) -> dict[str, inspect.Parameter]:
    # The signature of an NNX class is that of its metaclass; the first parameter is `self`.
    bound = functools.partial(constructor.__init__, None) if _is_nnx(constructor) else constructor
    return importing.parameters(bound)


def _is_nnx(constructor) -> bool:
    return isinstance(constructor, type) and issubclass(constructor, nnx.Module)


__all__ = [
    "BY_NAME",
    "CLIP",
    "DECODERS",
    "DENOISERS",
    "GAT",
    "GCN",
    "GIN",
    "GRAPH_NETS",
    "MLP",
    "SGC",
    "TEXT_CLASSIFIERS",
    "VAE",
    "ConvNet",
    "CrossDiT",
    "Decoder",
    "DecoderConfig",
    "DiT",
    "Generator",
    "ResNet",
    "RopeScaling",
    "TextClassifier",
    "TextDiT",
    "TextEncoder",
    "UNet",
    "ViT",
    "by_name",
    "default_options",
    "layers",
]
