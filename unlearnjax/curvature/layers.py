"""Squared per-example gradients, summed over a batch, at the price of about one backward pass.

One batched pass captures each layer's inputs a and output cotangents d; a rule per layer then gives
`sum_n w_n (grad_n)^2` without one gradient per example and parameter where that can be avoided:
dense layer without weight sharing `(a^2)^T (d^2)`; convolution: patches times cotangents per
example, squared, summed; any other layer that owns its parameters directly (norms, shared dense
layers, embeddings of positions): its own vector-Jacobian product per example. Parameters that no
such layer owns, or that are used more than once, fall back to `vmap(grad)`.

A layer is recognised by the parameter arrays it reads being those of `variables`, so the capture
also works through any wrapper around Linen modules; where it does not (another library, layers
inside `nn.remat`, `nn.scan` or `nn.jit`), the fallback is exact too, only slower.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax import parallel, trees
from unlearnjax.curvature.per_example import example_loss
from unlearnjax.models import layers as model_layers
from unlearnjax.types import Array, Batch, PyTree, Task, Variables


class _Layer(NamedTuple):
    """One call of a module that directly owns all its parameters."""

    module: nn.Module
    variables: Mapping[str, Any]
    paths: Mapping[str, Any]  # parameter name -> its path in variables['params']
    args: tuple
    kwargs: dict
    outputs: Any
    capturable: bool  # one array in, one array out, the leading axis the batch


def summed_squares(
    task: Task, variables: Variables, batch: Batch, max_bytes: int = 2**28
) -> PyTree:
    """`sum_n weight_n (d loss_n / d params)^2` over a batch, leaves like the parameters.

    Args:
      task: its `apply` must treat examples independently in evaluation mode.
      variables: the model's.
      batch: with `weight` `[B]`.
      max_bytes: bound on the per-example gradients that a device holds at once.
    """
    params, weight = variables["params"], batch["weight"]
    squares = {}
    for layer, inputs, cotangents in captured(task, variables, batch):
        values = _layer_squares(layer, inputs, cotangents, weight, max_bytes)
        squares.update({layer.paths[name]: value for name, value in values.items()})
    squares.update(_remaining_squares(task, variables, batch, squares, max_bytes))
    return jax.tree_util.tree_map_with_path(lambda path, _: squares[path], params)


def captured(task: Task, variables: Variables, batch: Batch) -> list[tuple[_Layer, Array, Array]]:
    """`(layer, inputs, cotangents)` of every layer that owns its parameters and is called once.

    Cotangents are of the example's own loss, weights are not applied. One forward and one backward
    pass.
    """
    found: list[_Layer] = []

    def discover(variables, batch):
        return _captured_losses(task, variables, batch, {}, found)

    jax.eval_shape(discover, variables, batch)
    uses = Counter(path for layer in found for path in layer.paths.values())
    covered = [
        i
        for i, layer in enumerate(found)
        if layer.capturable and all(uses[path] == 1 for path in layer.paths.values())
    ]

    layers: list[_Layer] = []

    def total_loss(offsets):
        losses = _captured_losses(task, variables, batch, offsets, layers)
        return losses.sum(), [layers[i].args[0] for i in covered]

    offsets = {i: jnp.zeros(found[i].outputs.shape, found[i].outputs.dtype) for i in covered}
    cotangents, inputs = jax.grad(total_loss, has_aux=True)(offsets)
    return [(layers[i], x, cotangents[i]) for i, x in zip(covered, inputs, strict=True)]


def _captured_losses(task, variables, batch, offsets: dict, layers: list[_Layer]) -> Array:
    """Per-example losses, with `offsets[i]` added to the output of the i-th layer called."""
    owned = jax.tree_util.tree_leaves_with_path(variables["params"])
    path_of = {id(leaf): path for path, leaf in owned}
    active = []

    def interceptor(next_fun, args, kwargs, context):
        module = context.module
        # Calls that a layer makes of its own methods belong to the call under way.
        own = {} if module in active else _own_parameters(module, path_of)
        if not own:
            return next_fun(*args, **kwargs)
        active.append(module)
        outputs = next_fun(*args, **kwargs)
        active.pop()
        index = len(layers)
        capturable = (
            context.method_name == "__call__"
            and len(args) >= 1
            and not any(isinstance(x, jax.Array) for x in jax.tree.leaves((args[1:], kwargs)))
            and all(
                isinstance(x, jax.Array) and x.ndim >= 1 and x.shape[0] == batch["weight"].shape[0]
                for x in (args[0], outputs)
            )
        )
        layers.append(_Layer(module, module.variables, own, args, kwargs, outputs, capturable))
        return outputs + offsets[index] if index in offsets else outputs

    with nn.intercept_methods(interceptor):
        outputs, _ = task.apply(variables, batch, None, False)
    return task.loss(outputs, batch)


def _own_parameters(module: nn.Module, path_of: dict) -> dict[str, Any]:
    """Paths of a bound module's parameters by name; empty if it is no layer of this model."""
    if module.scope is None:
        return {}
    params = module.variables.get("params", {})
    if any(isinstance(value, Mapping) or id(value) not in path_of for value in params.values()):
        return {}
    return {name: path_of[id(value)] for name, value in params.items()}


def _layer_squares(
    layer: _Layer, inputs: Array, cotangents: Array, weight: Array, max_bytes: int
) -> dict[str, Array]:
    """The rule of one layer: parameter name -> weighted sum of squared per-example gradients."""
    module, params = layer.module, layer.variables["params"]
    others = {name: value for name, value in layer.variables.items() if name != "params"}
    unbound = module.clone(parent=None)

    if type(module) is nn.Dense and inputs.ndim == 2:
        squared = cotangents.astype(jnp.float32) ** 2 * weight[:, None]
        result = {"kernel": (inputs.astype(jnp.float32) ** 2).T @ squared}
        return result | ({"bias": squared.sum(0)} if "bias" in params else {})

    if type(module) is model_layers.Conv:

        def gradient(inputs, cotangents):
            patches = model_layers.extract_patches(
                inputs, module.kernel_size, module.strides, module.padding
            )
            kernel = jnp.einsum("nhwk,nhwo->nko", patches, cotangents)
            result = {"kernel": kernel.reshape(-1, *params["kernel"].shape)}
            return result | ({"bias": cotangents.sum((1, 2))} if "bias" in params else {})

    else:

        def one(inputs, cotangent):
            def call(own):
                args = (inputs[None], *layer.args[1:])
                return unbound.apply({**others, "params": own}, *args, **layer.kwargs)[0]

            return jax.vjp(call, dict(params))[1](cotangent)[0]

        gradient = jax.vmap(one)

    def summed(inputs, cotangents, weight):
        return jax.tree.map(
            lambda g: jnp.einsum("n...,n->...", g.astype(jnp.float32) ** 2, weight),
            gradient(inputs, cotangents),
        )

    return _sum_over_chunks(
        summed, (inputs, cotangents, weight), trees.nbytes(dict(params)), max_bytes
    )


def _remaining_squares(
    task: Task, variables: Variables, batch: Batch, done: Mapping, max_bytes: int
) -> dict[Any, Array]:
    """The same by `vmap(grad)` for the parameters whose path is not in `done`."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(variables["params"])
    remaining = {path: leaf for path, leaf in leaves if path not in done}
    if not remaining:
        return {}

    def loss(own, example):
        params = treedef.unflatten([own.get(path, leaf) for path, leaf in leaves])
        return example_loss(task, variables)(params, example)

    def summed(batch):
        grads = jax.vmap(
            jax.grad(lambda own, e: loss(dict(zip(remaining, own, strict=True)), e)), (None, 0)
        )(list(remaining.values()), batch)
        return [
            jnp.einsum("n...,n->...", g.astype(jnp.float32) ** 2, batch["weight"]) for g in grads
        ]

    values = _sum_over_chunks(
        summed, (dict(batch),), trees.nbytes(list(remaining.values())), max_bytes
    )
    return dict(zip(remaining, values, strict=True))


def _sum_over_chunks(
    fn: Callable[..., PyTree], args: tuple, bytes_per_example: int, max_bytes: int
) -> PyTree:
    """`fn(*args)`, a sum over the leading axis, in equal chunks that respect `max_bytes`.

    On every device: each chunk takes as many examples of the part of every device.
    """
    n = jax.tree.leaves(args)[0].shape[0]
    parts = parallel.num_parts(n)
    own, most = n // parts, max(1, max_bytes // max(1, bytes_per_example))
    chunk = next(size for size in range(min(own, most), 0, -1) if own % size == 0)
    if chunk == own:
        return fn(*args)

    def split(x):
        x = x.reshape(parts, own // chunk, chunk, *x.shape[1:]).swapaxes(0, 1)
        return x.reshape(own // chunk, parts * chunk, *x.shape[3:])

    def add(total, part):
        return jax.tree.map(jnp.add, total, fn(*parallel.constrain(part))), None

    chunks = jax.tree.map(split, args)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        jax.eval_shape(fn, *jax.tree.map(lambda x: x[0], chunks)),
    )
    return jax.lax.scan(add, zeros, chunks)[0]
