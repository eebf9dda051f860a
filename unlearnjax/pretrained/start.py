"""A model of ours that starts from published weights."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax import traverse_util

from unlearnjax.models.vit import ViT
from unlearnjax.pretrained import files, mapping, vit
from unlearnjax.types import Array, PyTree, Variables

# By class of model, `(module, tensors, shape of one input) -> mapping.Family`.
FAMILIES: dict[type[nn.Module], Callable[..., mapping.Family]] = {ViT: vit.family}


class Start(NamedTuple):
    """A model before it is trained on.

    Attributes:
      variables: whole, for `training.init_variables(start=)`.
      notes: what is not as it was published, one line each.
    """

    variables: Variables
    notes: tuple[str, ...]


def load_model(
    path: str | os.PathLike,
    module: nn.Module,
    inputs: Array | jax.ShapeDtypeStruct,
    rng: Array,
    shardings: Callable[[PyTree], PyTree] | None = None,
) -> Start:
    """The model with published weights; a classifier of other classes is initialised.

    Args:
      path: see `files.open_tensors`.
      module: of one of `FAMILIES`.
      inputs: a batch, or its shape and type.
      rng: key of what is initialised.
      shardings: from parameters' shapes to where they belong; default one device.

    Raises:
      ValueError: for another module, and see `mapping.load`.
      ImportError: if the library safetensors is needed and not there.

    Examples:
      >>> from unlearnjax import models, pretrained
      >>> module = models.by_name("vit_base", num_classes=10)
      >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
      >>> pretrained.load_model("no/such/folder", module, images, jax.random.key(0))
      Traceback (most recent call last):
      ValueError: weights must be a .safetensors file, its .index.json, an .npz or a folder, got ...
    """
    make = next((make for kind, make in FAMILIES.items() if isinstance(module, kind)), None)
    if make is None:
        known = sorted(kind.__name__ for kind in FAMILIES)
        raise ValueError(f"weights are read for {known}, not for {type(module).__name__}")
    tensors = files.open_tensors(path)
    family = make(module, tensors, tuple(inputs.shape[1:]))

    def init(rng: Array, inputs: Array) -> dict[str, Any]:
        return module.init(rng, inputs)["params"]

    like = jax.eval_shape(init, rng, inputs)
    if shardings is not None:
        place = lambda shape, where: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)
        like = jax.tree.map(place, like, shardings(like))
    params, fresh, resized = mapping.load(
        tensors, like, family.key_map, replaceable=family.replaceable, resize=family.resize
    )
    flat = traverse_util.flatten_dict(params, sep="/")
    wanted = traverse_util.flatten_dict(like, sep="/")
    if fresh:
        some = lambda rng, inputs: _some(init(rng, inputs), fresh)  # the rest is not computed
        placed = {name: getattr(wanted[name], "sharding", None) for name in fresh}
        zeros = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), inputs)
        flat |= jax.jit(some, out_shardings=placed)(rng, zeros)
    notes = (
        *(f"{name} {list(flat[name].shape)} is initialised anew" for name in fresh),
        *(f"{name} is interpolated to {list(flat[name].shape)}" for name in resized),
    )
    return Start({"params": traverse_util.unflatten_dict(flat, sep="/")}, notes)


def _some(params: dict[str, Any], names: tuple[str, ...]) -> dict[str, Array]:
    flat = traverse_util.flatten_dict(params, sep="/")
    return {name: flat[name] for name in names}
