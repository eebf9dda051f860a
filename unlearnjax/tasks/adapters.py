"""From a model of any library to the `(init, apply)` pair a Task is made of."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from unlearnjax import checks, language
from unlearnjax.tasks import hooks
from unlearnjax.types import Array, Batch, Outputs, Variables


class Model(NamedTuple):
    """The first two functions of a `Task`; write your own pair for any other library."""

    init: Callable[[Array, Batch], Variables]
    apply: Callable[[Variables, Batch, Array | None, bool], tuple[Outputs, Variables]]


def from_linen(
    module: nn.Module,
    arguments: tuple[str, ...] = ("inputs",),
    rng_names: tuple[str, ...] = ("dropout",),
) -> Model:
    """A model from a Linen module called as `module(inputs, train=...)`.

    Args:
      module: returns logits, or a mapping with 'logits' and, for feature-space methods, 'features'.
        One that takes `positions` and `cache`, as `models.Decoder`, is also given a batch's columns
        `positions` and `cache.*`, where there are any: those of `language.decode`.
      arguments: the columns of a batch that it is called with, in order.
      rng_names: the rng streams the module draws from while training.

    Raises:
      ValueError: for arguments that are one name.
    """
    checks.not_text(arguments=arguments)
    decodes = {"positions", "cache"} <= inspect.signature(type(module).__call__).parameters.keys()

    def init(rng, batch):
        return dict(module.init({"params": rng}, *columns(batch, arguments), train=False))

    def apply(variables, batch, rng, train):
        given = columns(batch, arguments)
        told = _decoding(batch) if decodes else {}
        if not train:
            return _as_outputs(module.apply(variables, *given, train=False, **told)), variables
        mutable = [name for name in variables if name != "params"]
        keys = jax.random.split(rng, len(rng_names))
        outputs, updated = module.apply(
            variables,
            *given,
            train=True,
            **told,
            rngs=dict(zip(rng_names, keys, strict=True)),
            mutable=mutable,
        )
        return _as_outputs(outputs), {**variables, **updated}

    return Model(init, apply)


def from_nnx(
    constructor: Callable[[nnx.Rngs], nnx.Module], arguments: tuple[str, ...] = ("inputs",)
) -> Model:
    """A model from an NNX module class, called as `module(inputs)`.

    Args:
      constructor: e.g. `lambda rngs: MyModel(num_classes=10, rngs=rngs)`. The module is switched by
        `module.train()` and `module.eval()`.
      arguments: the columns of a batch that it is called with, in order.

    The variables are `{'params': ..., 'rest': ...}`, plain nested dictionaries; `rest` holds the
    other variables, such as batch statistics; collections that others added are carried. Keys and
    counters of the module's rng streams are not among them: every training step derives fresh ones
    from its own key.

    Examples:
      >>> class Linear(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.layer = nnx.Linear(4, 3, rngs=rngs)
      ...
      ...     def __call__(self, x):
      ...         return self.layer(x)
      >>> model = from_nnx(Linear)
      >>> variables = model.init(jax.random.key(0), {})
      >>> variables["params"]["layer"]["kernel"].shape
      (4, 3)
    """
    checks.not_text(arguments=arguments)
    # The graph definition is static; one abstract construction recovers it without computing.
    filters = (nnx.Param, nnx.RngState, ...)
    graph, params_shape, rngs_shape, rest_shape = nnx.split(
        nnx.eval_shape(lambda: constructor(nnx.Rngs(0))), *filters
    )

    def pack(module):
        _, params, _, rest = nnx.split(module, *filters)
        return {"params": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}

    def filled(shapes, values):
        state = jax.tree.map(lambda leaf: leaf, shapes)
        nnx.replace_by_pure_dict(state, values)
        return state

    def streams(rng):
        leaves, treedef = jax.tree.flatten(rngs_shape)
        return treedef.unflatten(
            jax.random.fold_in(rng, i)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(leaves)
        )

    def init(rng, batch):
        del batch
        return pack(constructor(nnx.Rngs(rng)))

    def apply(variables, batch, rng, train):
        module = nnx.merge(
            graph,
            filled(params_shape, variables["params"]),
            streams(rng if train else jax.random.key(0)),
            filled(rest_shape, variables["rest"]),
        )
        (module.train if train else module.eval)()
        outputs = _as_outputs(hooks.placed(module)(*columns(batch, arguments)))
        return outputs, ({**variables, **pack(module)} if train else variables)

    return Model(init, apply)


def columns(batch: Batch, names: tuple[str, ...]) -> list[Array]:
    """The columns of a batch that a model is called with.

    Raises:
      ValueError: for one that it lacks.
    """
    missing = [name for name in names if name not in batch]
    if missing:
        raise ValueError(f"the model needs the column {missing[0]!r}, a batch has {sorted(batch)}")
    return [batch[name] for name in names]


def features(outputs: Outputs) -> Array:
    """What a model returns as 'features' `[B, D]` beside its logits; also of outputs' shapes.

    Raises:
      ValueError: if it returns none.
    """
    if "features" not in outputs:
        raise ValueError(
            "the model must return {'logits': [B, C], 'features': [B, D]}, it returns "
            f"{sorted(outputs)} alone"
        )
    return outputs["features"]


def logits(outputs: Outputs) -> Array:
    """What a model returns as 'logits'; also of outputs' shapes.

    Raises:
      ValueError: if it returns none.
    """
    if "logits" not in outputs:
        hint = "; a language model does where its chunk is None" if "log_probs" in outputs else ""
        raise ValueError(
            f"the model must return 'logits', it returns {sorted(outputs)} alone{hint}"
        )
    return outputs["logits"]


def num_classes(outputs: Outputs) -> int:
    """C of a model's 'logits' `[B, C]`, for methods that tell classes apart; also of shapes.

    Raises:
      ValueError: if there are no such logits, or one column of them alone.
    """
    shape = getattr(outputs.get("logits"), "shape", ())
    if len(shape) != 2 or shape[1] < 2:
        found = ", ".join(f"{name} {list(value.shape)}" for name, value in sorted(outputs.items()))
        raise ValueError(
            f"the task must have classes, 'logits' [B, C] with C >= 2, its outputs are {found}"
        )
    return shape[1]


def _decoding(batch: Batch) -> dict[str, Any]:
    """What a batch says of the positions of its tokens, and of those before them."""
    if "positions" not in batch:
        return {}
    start = language.CACHE
    cache = {k.removeprefix(start): v for k, v in batch.items() if k.startswith(start)}
    return {"positions": batch["positions"], "cache": cache}


def _as_outputs(outputs: Any) -> Outputs:
    return outputs if isinstance(outputs, Mapping) else {"logits": outputs}
