"""From a model of any library to the `(init, apply)` pair a Task is made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax import nnx

from unlearnjax.types import Array, Batch, Outputs, Variables


class Model(NamedTuple):
    """The first two functions of a `Task`; write your own pair for any other library."""

    init: Callable[[Array, Batch], Variables]
    apply: Callable[[Variables, Batch, Array | None, bool], tuple[Outputs, Variables]]


def from_linen(module: nn.Module, rng_names: tuple[str, ...] = ("dropout",)) -> Model:
    """A model from a Linen module called as `module(inputs, train=...)`.

    Args:
      module: returns logits, or a mapping with 'logits' and, for feature-space methods, 'features'.
      rng_names: the rng streams the module draws from while training.
    """

    def init(rng, batch):
        return dict(module.init({"params": rng}, batch["inputs"], train=False))

    def apply(variables, batch, rng, train):
        if not train:
            return _as_outputs(module.apply(variables, batch["inputs"], train=False)), variables
        mutable = [name for name in variables if name != "params"]
        keys = jax.random.split(rng, len(rng_names))
        outputs, updated = module.apply(
            variables,
            batch["inputs"],
            train=True,
            rngs=dict(zip(rng_names, keys, strict=True)),
            mutable=mutable,
        )
        return _as_outputs(outputs), {**variables, **updated}

    return Model(init, apply)


def from_nnx(constructor: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """A model from an NNX module class, called as `module(inputs)`.

    Args:
      constructor: e.g. `lambda rngs: MyModel(num_classes=10, rngs=rngs)`. The module is switched by
        `module.train()` and `module.eval()`, and its rngs are reseeded at each training step.

    The variables are `{'params': ..., 'rest': ...}`, plain nested dictionaries; `rest` holds batch
    statistics and rng counters.
    """
    # The graph definition is static; one abstract construction recovers it without computing.
    graph, params_shape, rest_shape = nnx.split(
        nnx.eval_shape(lambda: constructor(nnx.Rngs(0))), nnx.Param, ...
    )

    def pack(params, rest):
        return {"params": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}

    def init(rng, batch):
        del batch
        _, params, rest = nnx.split(constructor(nnx.Rngs(rng)), nnx.Param, ...)
        return pack(params, rest)

    def apply(variables, batch, rng, train):
        states = []
        for shape, values in zip(
            (params_shape, rest_shape), (variables["params"], variables["rest"]), strict=True
        ):
            state = jax.tree.map(lambda leaf: leaf, shape)
            nnx.replace_by_pure_dict(state, values)
            states.append(state)
        module = nnx.merge(graph, *states)
        if train:
            module.train()
            nnx.reseed(module, default=rng, dropout=rng)
        else:
            module.eval()
        outputs = _as_outputs(module(batch["inputs"]))
        if not train:
            return outputs, variables
        _, params, rest = nnx.split(module, nnx.Param, ...)
        return outputs, pack(params, rest)

    return Model(init, apply)


def _as_outputs(outputs: Any) -> Outputs:
    return outputs if isinstance(outputs, Mapping) else {"logits": outputs}
