"""Squared per-example gradients, summed over a batch, at the price of about one backward pass.

One pass over single examples under `vmap` gives each known layer's inputs a and output cotangents d
and, for all parameters of no known layer, the gradients themselves. Of a layer that multiplies one
row by its kernel `sum_n w_n (grad_n)^2` is `(a^2)^T (w d^2)`, without one gradient per example; of
one that multiplies several (a dense layer over positions, a convolution) it is the product of rows
and cotangents per example, squared, summed.

Known is a layer of `KINDS`, recognised by the parameter arrays it reads being those of `variables`,
so through any wrapper around Linen modules, where the computation shows that nothing else reads
them. Since each example is a program of its own, no axis is taken for that of the examples. All
other parameters (of other layers, of other libraries, tied, transformed, used twice, inside `scan`,
`remat` or `jit`) get `vmap(grad)`, which is the definition, only slower for large kernels.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from unlearnjax import parallel, trees
from unlearnjax.curvature.per_example import example_loss, is_float, weighted_squares
from unlearnjax.models import layers as model_layers
from unlearnjax.types import Array, Batch, PyTree, Task, Variables

# Exactly these: what a subclass computes is its own affair.
KINDS = (nn.Dense, nn.DenseGeneral, model_layers.Conv)


class Layer(NamedTuple):
    """The one call of a layer that multiplies rows by its kernel and may add a bias.

    Attributes:
      module: of one of `KINDS`.
      paths: `{'kernel': path, 'bias': path}`, or without bias, in `variables['params']`.
      call: how many calls of such layers come before this one.
      output: shape and type of its output for one example.
    """

    module: nn.Module
    paths: dict[str, tuple]
    call: int
    output: jax.ShapeDtypeStruct

    @property
    def name(self) -> str:
        """Dotted name of the group of its parameters; empty where they are not grouped."""
        return trees.path_name(self.paths["kernel"][:-1])

    def rows(self, inputs: Array, cotangents: Array) -> tuple[Array, Array]:
        """What `captured` hands out as `[n, rows, in]` and `[n, rows, out]`.

        An example's gradient by the kernel `[in, out]` is the product of the two, that by the bias
        the sum of the latter.
        """
        module = self.module
        ins, outs = 1, 1
        if type(module) is nn.DenseGeneral:
            ins, outs = np.size(module.axis), np.size(module.features)
        if type(module) is model_layers.Conv:
            images = inputs.reshape(-1, *inputs.shape[-3:])
            patches = model_layers.extract_patches(
                images, module.kernel_size, module.strides, module.padding
            )
            inputs = patches.reshape(*inputs.shape[:-3], *patches.shape[1:])

        def flat(x, axes):
            return x.reshape(x.shape[0], -1, np.prod(x.shape[-axes:]))

        return flat(inputs, ins), flat(cotangents, outs)


def summed_squares(
    task: Task, variables: Variables, batch: Batch, max_bytes: int = 2**28
) -> PyTree:
    """`sum_n weight_n (d loss_n / d params)^2` over a batch, leaves like the parameters, float32.

    Args:
      task: its `apply` must treat examples independently in evaluation mode.
      variables: the model's. A parameter of integers has no gradient, hence zeros.
      batch: with `weight` `[B]`.
      max_bytes: bound on the per-example gradients that a device holds at once.
    """
    layers = find(task, variables, batch)
    known = {path for layer in layers for path in layer.paths.values()}
    leaves, treedef = jax.tree_util.tree_flatten_with_path(variables["params"])
    others = {
        i: leaf for i, (path, leaf) in enumerate(leaves) if path not in known and is_float(leaf)
    }

    def summed(batch):
        weight = batch["weight"]
        triples, gradients = _backward(task, variables, batch, layers, others)
        squares = {path: jnp.zeros(leaf.shape, jnp.float32) for path, leaf in leaves}
        squares |= {leaves[i][0]: weighted_squares(g, weight) for i, g in gradients.items()}
        for layer, inputs, cotangents in triples:
            values = _layer_squares(layer, inputs, cotangents, weight, max_bytes)
            squares |= {layer.paths[name]: value for name, value in values.items()}
        return [squares[path].reshape(leaf.shape) for path, leaf in leaves]

    nbytes = trees.nbytes(list(others.values()))
    return treedef.unflatten(_sum_over_chunks(summed, (dict(batch),), nbytes, max_bytes))


def captured(task: Task, variables: Variables, batch: Batch) -> list[tuple[Layer, Array, Array]]:
    """`(layer, inputs, cotangents)` of every layer that `find` knows, examples leading.

    Cotangents are of the example's own loss, weights are not applied. One forward and one backward
    pass.
    """
    return _backward(task, variables, batch, find(task, variables, batch), {})[0]


def find(task: Task, variables: Variables, batch: Batch) -> list[Layer]:
    """The layers of which a rule gives the per-example gradients, in the order of their calls.

    Computes nothing. With the outputs of such layers cut off, neither the loss nor any of their
    inputs may depend on their parameters; else something beside the one call reads these.
    """
    example = jax.eval_shape(lambda batch: jax.tree.map(lambda x: x[0], batch), dict(batch))
    found, calls = [], itertools.count()

    def cut(params, example):
        leaves = jax.tree_util.tree_leaves_with_path(params)
        path_of = {id(leaf): path for path, leaf in leaves if is_float(leaf)}
        inputs = []

        def visit(module, x, y):
            call = next(calls)
            own = module.variables.get("params", {})
            paths = {name: path_of.get(id(value)) for name, value in own.items()}
            names = {"kernel", "bias"} if module.use_bias else {"kernel"}
            known = set(paths) == names and None not in paths.values()
            if not known or not _multiplies_rows(module, x) or 0 in (x.size, y.size):
                return y
            found.append(Layer(module, paths, call, jax.ShapeDtypeStruct(y.shape, y.dtype)))
            inputs.append(x)
            return jnp.zeros_like(y)

        return _loss_with(visit, task, variables)(params, example), inputs

    jaxpr = jax.make_jaxpr(cut)(variables["params"], example).jaxpr
    uses = Counter(path for layer in found for path in layer.paths.values())
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"]))
    read = _read(jaxpr)
    uses.update(path for path, x in zip(paths, jaxpr.invars, strict=False) if x in read)
    return [layer for layer in found if all(uses[path] == 1 for path in layer.paths.values())]


def _read(program: core.Jaxpr) -> set[core.Var]:
    """The variables of a program that its outputs may depend on."""
    read = {x for x in program.outvars if isinstance(x, core.Var)}
    for equation in reversed(program.eqns):
        if not read.isdisjoint(equation.outvars):
            read.update(x for x in equation.invars if isinstance(x, core.Var))
    return read


def _loss_with(visit: Callable, task: Task, variables: Variables) -> Callable:
    """`example_loss` with `visit(module, inputs, outputs)` for the outputs of layers of `KINDS`.

    Not visited are calls within a program inside that of the example (of `scan`, `vmap`, `remat`,
    `jit`): their values are others at each turn, and what is cached is not called again.
    """

    def loss(params, example):
        program = core.get_opaque_trace_state(convention="flax")

        def interceptor(next_fun, args, kwargs, context):
            outputs = next_fun(*args, **kwargs)
            if (
                type(context.module) not in KINDS
                or context.method_name != "__call__"
                or next_fun is not context.orig_method  # another interceptor may change the call
                or core.get_opaque_trace_state(convention="flax") != program
            ):
                return outputs
            (inputs,) = (*args, *kwargs.values())
            return visit(context.module, inputs, outputs)

        with nn.intercept_methods(interceptor):
            return example_loss(task, variables)(params, example)

    return loss


def _multiplies_rows(module: nn.Module, inputs: Array) -> bool:
    """Whether a layer multiplies the last axes of its inputs, as one, and in the usual way."""
    if type(module) is model_layers.Conv:
        return True
    if type(module) is nn.DenseGeneral:
        axes = [axis if axis < 0 else axis - inputs.ndim for axis in np.atleast_1d(module.axis)]
        if np.size(module.batch_dims) or axes != list(range(-len(axes), 0)):
            return False
    usual = module.promote_dtype is nn.dtypes.promote_dtype
    return usual and module.dot_general is None and module.dot_general_cls is None


def _backward(
    task: Task, variables: Variables, batch: Batch, layers: list[Layer], others: dict[int, Array]
) -> tuple[list[tuple[Layer, Array, Array]], dict[int, Array]]:
    """`(layer, inputs, cotangents)` of each layer, and gradients by `others`, examples leading.

    Args:
      others: leaves of the parameters, by their position among all.
    """
    leaves, treedef = jax.tree.flatten(variables["params"])

    def loss(others, offsets, example):
        calls, inputs = itertools.count(), {}

        def visit(module, x, y):
            call = next(calls)
            if call not in offsets:
                return y
            inputs[call] = x
            return y + offsets[call]

        params = treedef.unflatten([others.get(i, leaf) for i, leaf in enumerate(leaves)])
        return _loss_with(visit, task, variables)(params, example), inputs

    offsets = {layer.call: jnp.zeros(layer.output.shape, layer.output.dtype) for layer in layers}
    per_example = jax.vmap(jax.grad(loss, (0, 1), has_aux=True), (None, None, 0))
    (gradients, cotangents), inputs = per_example(others, offsets, dict(batch))
    return [(layer, inputs[layer.call], cotangents[layer.call]) for layer in layers], gradients


def _layer_squares(
    layer: Layer, inputs: Array, cotangents: Array, weight: Array, max_bytes: int
) -> dict[str, Array]:
    """The rule of one layer: parameter name -> weighted sum of squared per-example gradients."""

    def of_several(inputs, cotangents, weight):
        rows, outputs = layer.rows(inputs, cotangents)
        dtype = jnp.result_type(rows, outputs, jnp.float32)  # sums of low precision are in float32
        kernel = jnp.einsum("nri,nro->nio", rows, outputs, preferred_element_type=dtype)
        gradients = {"kernel": kernel, "bias": outputs.sum(1, dtype=dtype)}
        return {name: weighted_squares(g, weight) for name, g in gradients.items()}

    def of_one(inputs, cotangents, weight):
        rows, outputs = (x[:, 0].astype(jnp.float32) for x in layer.rows(inputs, cotangents))
        outputs = outputs**2 * weight[:, None]
        return {"kernel": (rows**2).T @ outputs, "bias": outputs.sum(0)}

    args = (inputs, cotangents, weight)
    rows, outputs = jax.eval_shape(layer.rows, inputs, cotangents)
    nbytes = 4 * rows.shape[2] * outputs.shape[2]
    one = rows.shape[1] == 1
    squares = of_one(*args) if one else _sum_over_chunks(of_several, args, nbytes, max_bytes)
    return {name: squares[name] for name in layer.paths}


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
