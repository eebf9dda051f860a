"""Changes of parameters that every example of a batch has at a strength of its own."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from unlearnjax.models import layers
from unlearnjax.tasks.trained import held, without
from unlearnjax.types import Array, Batch, PyTree, Task, Variables

# Exactly these: their outputs are linear in all of their parameters together.
LINEAR = (
    nn.Dense,
    nn.DenseGeneral,
    nn.Conv,
    nn.ConvTranspose,
    nn.Einsum,
    nn.Embed,
    layers.Conv,
)
# Attributes that may make one of them something else.
_REPLACING = ("dot_general", "dot_general_cls", "conv_general_dilated", "conv_general_dilated_cls")

# (layer, {name of a parameter: its place}, call of another such layer, outputs) -> outputs
Visit = Callable[[nn.Module, dict[str, int], Callable[[nn.Module, PyTree], Array], Array], Array]


def scaled(
    task: Task, student: Task, change: Callable[[Array, PyTree], Array], column: str, base: str
) -> Task:
    """`student`, whose changes are multiplied by the `column` `[B]` of a batch.

    Every example is a program of its own under `vmap`. What layers of `LINEAR` alone read is not
    changed there: such a layer is applied a second time, with the change for parameters, and the
    result is multiplied and added. Any other parameter is changed before, for each example of the
    batch: in models of other libraries, in norms, in Linen's `remat`, `scan` and `jit`, where
    something else reads it, too, and under `edit` and `capture`. Since an example is a batch of its
    own there, hooks have `[B, 1, ...]` for an activation `[B, ...]` of the plain model.

    Args:
      task: of the plain model.
      student: `adapted(task, ...)`, whose edits are added.
      change: `(parameter, edit) ->` what is added to it.
      column: such as the weights that a detector gives.
      base: name of the collection.

    Returns:
      A task that refuses an empty batch, one without the column, and in training mode a model with
      further collections, since an example alone has no running statistics. Cost: the changed
      layers twice, and B times the bytes of changed parameters that are not theirs.
    """

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        leaves, treedef = jax.tree.flatten(held(variables, base, "tasks.as_base"))
        leaves = _apart(leaves)
        edits = treedef.flatten_up_to(variables["params"])
        changes = {
            i: change(leaf, edit)
            for i, (leaf, edit) in enumerate(zip(leaves, edits, strict=True))
            if edit is not None
        }
        others = without(without(variables, base), "params")
        _validate(batch, column, train, [name for name in others if jax.tree.leaves(others[name])])

        def outputs(leaves, example, key):
            params = {"params": treedef.unflatten(leaves)}
            one = {name: value[None] for name, value in example.items()}
            found, _ = task.apply({**others, **params}, one, key, train)
            return jax.tree.map(lambda x: x[0], found)

        keys = rng if rng is None else jax.random.split(rng, batch[column].shape[0])
        each = (dict(batch), keys)
        first = jax.tree.map(lambda x: x[0], each)
        own = _read_by_layers(lambda leaves: outputs(leaves, *first), leaves, changes)
        changed = changes.keys() - own

        def one(example, key):
            strength = example[column]
            mixed = [
                added(leaf, strength * changes[i]) if i in changed else leaf
                for i, leaf in enumerate(leaves)
            ]

            def add(layer, places, again, result):
                params = {
                    name: changes[places[name]] if name in places else _zeros(value)
                    for name, value in layer.variables["params"].items()
                }
                more = again(layer.clone(parent=None), {"params": params})
                return result + (strength * more).astype(result.dtype)

            with _visiting(leaves, own, add):
                return outputs(mixed, example, key)

        return jax.vmap(one)(*each), variables

    return student._replace(apply=apply)


def added(leaf: Array, change: Array) -> Array:
    """`leaf + change`, rounded once to the type of `leaf`."""
    return (leaf.astype(change.dtype) + change).astype(leaf.dtype)


def _validate(batch: Batch, column: str, train: bool, others: list[str]) -> None:
    if column not in batch:
        raise ValueError(
            f"batch must have the column {column!r}, by which changes are multiplied, got "
            f"{sorted(batch)}"
        )
    shape = getattr(batch[column], "shape", None)
    sizes = sorted({len(value) for name, value in batch.items() if name != column})
    if shape is None or len(shape) != 1 or sizes not in ([], [*shape]):
        given = type(batch[column]).__name__ if shape is None else list(shape)
        raise ValueError(f"{column} must be [B], an array beside others of {sizes}, got {given}")
    if not shape[0]:
        raise ValueError(f"batch must have examples where {column} is a strength of each, got none")
    if train and others:
        raise ValueError(
            f"train must be False where each example has a strength of its own ({column}) and the "
            f"model has collections beside its parameters, got {others}"
        )


def _apart(leaves: Sequence[Array]) -> list[Array]:
    """The same arrays, of which no two are one, as they may be outside of compiled code."""
    arrays, first = [jnp.asarray(leaf) for leaf in leaves], {}
    return [x if first.setdefault(id(x), i) == i else jnp.copy(x) for i, x in enumerate(arrays)]


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, tree)


def _read_by_layers(
    outputs: Callable[[Sequence[Array]], PyTree], leaves: Sequence[Array], wanted: Collection[int]
) -> set[int]:
    """Places of the wanted leaves that only layers of `LINEAR` read. Computes nothing.

    With the outputs of such layers cut off, nothing that is computed depends on these.
    """
    met = set()

    def cut(leaves):
        def visit(layer, places, again, result):
            del layer, again
            met.update(places.values())
            return jnp.zeros_like(result)

        with _visiting(leaves, wanted, visit):
            return outputs(leaves)

    program = jax.make_jaxpr(cut)(list(leaves)).jaxpr
    read = {x for x in program.outvars if isinstance(x, core.Var)}
    for equation in reversed(program.eqns):
        if not read.isdisjoint(equation.outvars):
            read.update(x for x in equation.invars if isinstance(x, core.Var))
    return {i for i in met if program.invars[i] not in read}


@contextlib.contextmanager
def _visiting(leaves: Sequence[Array], wanted: Collection[int], visit: Visit) -> Iterator[None]:
    """Inside, `visit` has the outputs of layers of `LINEAR` that read wanted ones of `leaves`.

    A parameter is recognised by the array it is, through any wrapper around Linen modules.
    """
    place = {id(leaves[i]): i for i in wanted}

    def interceptor(next_fun, args, kwargs, context):
        result, layer = next_fun(*args, **kwargs), context.module
        if (
            type(layer) not in LINEAR
            or context.method_name not in ("__call__", "attend")
            or any(getattr(layer, attribute, None) for attribute in _REPLACING)
            or next_fun is not context.orig_method  # another interceptor may change the call
        ):
            return result
        params = layer.variables.get("params", {})
        places = {name: place[id(x)] for name, x in params.items() if id(x) in place}

        def again(layer, variables):
            return layer.apply(variables, *args, method=context.method_name, **kwargs)

        return visit(layer, places, again, result) if places else result

    with nn.intercept_methods(interceptor):
        yield
