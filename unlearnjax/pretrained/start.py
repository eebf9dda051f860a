"""A model of ours that starts from published weights."""

import os
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from unlearnjax.models.decoder import Decoder
from unlearnjax.models.vit import ViT
from unlearnjax.pretrained import decoder, files, mapping, vit
from unlearnjax.types import Array, PyTree, Variables

# By class of model, `(module, tensors, shape of one input) -> mapping.Family`.
FAMILIES: dict[type[nn.Module], Callable[..., mapping.Family]] = {
    Decoder: decoder.family,
    ViT: vit.family,
}


class Start(NamedTuple):
    """A model before it is trained on.

    Attributes:
      variables: for `training.init_variables(start=)`, which draws what is left out: a classifier
        of other classes.
      notes: what is not as it was published, or not known to be, one line each.
    """

    variables: Variables
    notes: tuple[str, ...]


def load_model(
    path: str | os.PathLike,
    module: nn.Module,
    inputs: Array | jax.ShapeDtypeStruct,
    shardings: Callable[[PyTree], PyTree] | None = None,
) -> Start:
    """Published weights of a model; those of a classifier of other classes are left out.

    Args:
      path: see `files.open_tensors`.
      module: of one of `FAMILIES`.
      inputs: a batch, or its shape and type.
      shardings: from parameters' shapes to where they belong; default one device.

    Raises:
      ValueError: for another module, and see `mapping.load`.
      ImportError: if the library safetensors is needed and not there.

    Examples:
      >>> from unlearnjax import models, pretrained
      >>> module = models.by_name("vit_base", num_classes=10)
      >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
      >>> pretrained.load_model("model.bin", module, images)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: weights model.bin may be a pickle, which can run any code and is never opened; ...
    """
    make = next((make for kind, make in FAMILIES.items() if isinstance(module, kind)), None)
    if make is None:
        known = sorted(kind.__name__ for kind in FAMILIES)
        raise ValueError(f"weights are read for {known}, got a model {type(module).__name__}")
    tensors = files.open_tensors(path)
    family = make(module, tensors, tuple(inputs.shape[1:]))
    like = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    if shardings is not None:
        place = lambda shape, where: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)
        like = jax.tree.map(place, like, shardings(like))
    params, fresh, resized = mapping.load(
        tensors, like, family.key_map, replaceable=family.replaceable, resize=family.resize
    )
    notes = (
        *family.notes,
        *(f"{name} does not fit the classes and is initialised anew" for name in fresh),
        *(f"{name} is interpolated to the grid of the images" for name in resized),
    )
    return Start({"params": params}, notes)
