"""Hidden activations of any model: seen by `capture`, changed by `edit`, named by `tap`.

Every named activation passes through a primitive that is the identity: `tap` places it, and while
a hooked task applies its model, so do the modules of Linen and NNX. What `capture` and `edit`
return traces the model to a program, without computing, and evaluates that program with the
activations taken or replaced. What jax keeps of a function inside (of `jit`, of `checkpoint`) it
keeps apart while hooks are on, so that neither a hooked call nor a plain one is given the other's.
"""

import contextlib
import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from unlearnjax import checks, trees
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Batch, PyTree, Task, Variables

# (activation, batch) -> activation
Edit = Callable[[Array, Batch], Array]

# What `capture` names an output after the layer: 'hidden.LAYER'.
HIDDEN = "hidden."
# How many names an error lists.
LISTED = 12


def capture(task: Task, where: Sequence[str]) -> Task:
    """The task whose outputs hold hidden activations, too: `hidden.NAME` of every name.

    A layer's activation is what its `__call__` returns. Its name is the dotted one of its
    parameters, see `layer_names`, for layers without any, too: `Dense_0` and `Block_1.Dropout_0` of
    a Linen module, `blocks.0.norm` of an NNX module, and what `tap` names in a function. A layer
    that returns several arrays has one name for each, `LSTM_0.1`.

    Of a layer that is called several times the last call is captured; in a `scan` of the model's
    own, all turns along a first axis. Axes that the model maps over (`vmap`) come first, too.

    Args:
      task: of any library.
      where: names of layers; `*` in one stands for anything, dots too, and it means all there are.

    Raises:
      ValueError: when the model is applied, for a name that it does not run, with those that it
        does, or one inside of a conditional or a `while_loop`.

    Cost: memory for what is captured, nothing else: the model is traced twice, and computed once.

    Examples:
      >>> from unlearnjax import models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> batch = {"inputs": jax.numpy.ones((2, 4))}
      >>> variables = task.init(jax.random.key(0), batch)
      >>> outputs, _ = capture(task, ("Dense_0",)).apply(variables, batch, None, False)
      >>> outputs["hidden.Dense_0"].shape
      (2, 8)
    """
    checks.not_text(where=where)
    return _hooked(task, {}, tuple(where))


def edit(task: Task, where: Mapping[str, Edit]) -> Task:
    """The task whose named activations are replaced by a function of them, wherever it is applied.

    That is in training, evaluation, audits and generation alike. For names see `capture`.

    Args:
      task: of any library.
      where: `{name: fn}`; `fn(activation, batch)` returns an array of the same shape and type. It
        is called at every call of the layer. It may close over arrays, such as variables: an
        `apply` that edits its task by what it finds in its variables is itself a function of them.

    Raises:
      ValueError: when the model is applied, for a name that `capture` refuses, or an activation of
        another shape or type.

    Examples:
      >>> from unlearnjax import models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> batch = {"inputs": jax.numpy.ones((1, 4))}
      >>> variables = task.init(jax.random.key(0), batch)
      >>> silenced = edit(task, {"Dense_0": lambda h, batch: 0 * h})
      >>> silenced.apply(variables, batch, None, False)[0]["logits"].tolist()
      [[0.0, 0.0, 0.0]]
    """
    if not isinstance(where, Mapping) or not all(map(callable, where.values())):
        raise ValueError(f"where must map names of layers to functions, got {where!r}")
    return _hooked(task, dict(where), ())


def tap(name: str, h: PyTree) -> PyTree:
    """`h`, as a named activation: how a function without modules shows what it computes.

    The identity, also mapped, differentiated or transposed. Arrays in a tree are named `NAME.PATH`.
    """
    leaves, treedef = jax.tree.flatten(h)
    names = [f"{name}.{own}" if own else name for own in trees.names(h)]
    return treedef.unflatten(
        _tap.bind(leaf, name=own) if isinstance(leaf, jax.Array | np.ndarray) else leaf
        for own, leaf in zip(names, leaves, strict=True)
    )


def with_features(task: Task, layer: str | None) -> Task:
    """The task whose 'features' `[B, D]` are the activations of a layer, for feature-space methods.

    All axes but the first are flattened into one. `None`: the task's own.

    Raises:
      ValueError: when the model is applied, for a layer that `capture` refuses, or whose first axis
        is not that of the examples.
    """
    if layer is None:
        return task
    checks.name(layer=layer)
    captured, name = capture(task, (layer,)), f"{HIDDEN}{layer}"

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        outputs, updated = captured.apply(variables, batch, rng, train)
        found, size = outputs[name], data_lib.num_examples(batch)
        if found.shape[:1] != (size,):
            raise ValueError(
                f"layer {layer!r} must be [{size}, ...] for {size} examples, it is "
                f"{list(found.shape)}"
            )
        rest = {k: v for k, v in outputs.items() if k != name}
        return {**rest, "features": found.reshape(size, -1)}, updated

    return task._replace(apply=apply)


def placed(module: nnx.Module) -> nnx.Module:
    """An NNX module, made for one call; while hooks are on its parts tap what they return."""
    if _PLACING.value:
        for path, part in list(nnx.iter_graph(module)):
            if isinstance(part, nnx.Module) and path:
                # A static attribute, which remains where `nnx.remat` and its like split and merge.
                part.tap_name = ".".join(map(str, path))
                object.__setattr__(part, "__class__", _tapping_class(type(part)))
    return module


_tap = core.Primitive("tap")
_tap.def_impl(lambda x, name: x)
_tap.def_abstract_eval(lambda x, name: x)
mlir.register_lowering(_tap, lambda ctx, x, name: [x])
ad.primitive_jvps[_tap] = lambda primals, tangents, name: (
    _tap.bind(*primals, name=name),
    tangents[0],
)
# Of `linear_transpose` alone: no tangent is tapped, which an edit would change as well.
ad.primitive_transposes[_tap] = lambda cotangent, x, name: [cotangent]
# The axis that is mapped over goes first; elsewhere it would be where jax happens to have it.
batching.primitive_batchers[_tap] = lambda args, axes, name: (
    _tap.bind(jnp.moveaxis(args[0], axes[0], 0), name=name),
    0,
)

# Part of the keys of jax's caches: programs traced with taps and without are different ones.
_PLACING = jax.make_user_context(False)


@contextlib.contextmanager
def _placing() -> Iterator[None]:
    """What is traced inside has its modules' activations tapped; once, if hooks are nested."""
    if _PLACING.value:
        yield
        return
    with _PLACING(True), nn.intercept_methods(_tap_module):
        yield


def _tap_module(next_fun, args, kwargs, context):
    outputs = next_fun(*args, **kwargs)
    path = context.module.path
    if context.method_name != "__call__" or not path:
        return outputs
    return tap(".".join(path), outputs)


@functools.cache
def _tapping_class(kind: type) -> type:
    def __call__(self, *args, **kwargs):
        return tap(self.tap_name, kind.__call__(self, *args, **kwargs))

    return type(kind)(kind.__name__, (kind,), {"__call__": __call__, "__module__": kind.__module__})


def _hooked(task: Task, edits: Mapping[str, Edit], captures: Sequence[str]) -> Task:
    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        def plain(variables, batch, rng):
            with _placing():
                return task.apply(variables, batch, rng, train)

        given = (variables, batch, rng)
        program, shapes = jax.make_jaxpr(plain, return_shape=True)(*given)
        seen = list(_seen(program.jaxpr))
        wanted = _expanded(captures, seen)
        _check_seen((*edits, *wanted), seen)

        def replace(name, h):
            return _checked(name, h, edits[name](h, batch)) if name in edits else h

        values, found = _evaluate(program, jax.tree.leaves(given), replace, {*edits, *wanted})
        outputs, updated = jax.tree.unflatten(jax.tree.structure(shapes), values)
        return {**outputs, **{f"{HIDDEN}{name}": found[name] for name in wanted}}, updated

    return task._replace(apply=apply)


def _evaluate(
    program: core.ClosedJaxpr, args: Sequence[Array], replace: Callable, wanted: set[str]
) -> tuple[list[Array], dict[str, Array]]:
    """A program's outputs and the wanted activations, each as `replace(name, h)` makes it."""
    jaxpr, found = program.jaxpr, {}
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    read = lambda x: x.val if isinstance(x, core.Literal) else values[x]
    for equation in jaxpr.eqns:
        given = [read(x) for x in equation.invars]
        name = equation.params.get("name")
        if equation.primitive is _tap and name in wanted:
            # Tapped again, for the hooks around these.
            found[name] = _tap.bind(replace(name, *given), name=name)
            results = [found[name]]
        elif equation.primitive is not _tap and wanted.intersection(_inner(equation)):
            results, inner = _evaluate_inner(equation, given, replace, wanted)
            found |= inner
        else:
            bound = equation.primitive.get_bind_params(equation.params)
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            with equation.ctx.manager:
                results = equation.primitive.bind(*functions, *given, **params)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars], found


def _evaluate_inner(
    equation: core.JaxprEqn, given: Sequence[Array], replace: Callable, wanted: set[str]
) -> tuple[list[Array], dict[str, Array]]:
    """`_evaluate` of an equation with a program of its own, in which there are wanted taps."""
    kind, params = equation.primitive.name, equation.params
    inner = params.get("jaxpr")
    if isinstance(inner, core.Jaxpr):
        inner = core.ClosedJaxpr(inner, ())
    run = lambda *args: _evaluate(inner, args, replace, wanted)
    if kind in ("jit", "pjit", "closed_call"):
        return run(*given)
    if kind in ("checkpoint", "remat", "remat2"):
        options = {name: params[name] for name in ("policy", "prevent_cse")}
        return jax.checkpoint(run, **options)(*given)
    if kind == "scan":
        first, split = params["num_consts"], params["num_carry"]

        def body(carry, x):
            results, found = run(*given[:first], *carry, *x)
            return results[:split], (results[split:], found)

        options = {name: params[name] for name in ("length", "reverse", "unroll")}
        start, x = given[first : first + split], given[first + split :]
        carry, (y, found) = jax.lax.scan(body, start, x, **options)
        return [*carry, *y], found
    name = next(name for name in _inner(equation) if name in wanted)
    raise ValueError(f"where must name layers outside of any {kind!r} of the model, got {name!r}")


def _seen(jaxpr: core.Jaxpr) -> Iterator[str]:
    """Names of all taps, also of inner programs, in order."""
    for equation in jaxpr.eqns:
        if equation.primitive is _tap:
            yield equation.params["name"]
        else:
            yield from _inner(equation)


def _inner(equation: core.JaxprEqn) -> Iterator[str]:
    is_program = lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
        if is_program(inner):
            yield from _seen(getattr(inner, "jaxpr", inner))


def _expanded(names: Sequence[str], seen: Sequence[str]) -> list[str]:
    """The names, and in the place of one with `*` all that are seen and that it means, if any."""
    pattern = lambda name: re.compile(re.escape(name).replace(r"\*", ".*"), re.S)
    meant = lambda name: [x for x in dict.fromkeys(seen) if pattern(name).fullmatch(x)]
    return [x for name in names for x in ((meant(name) if "*" in name else []) or [name])]


def _check_seen(names: Sequence[str], seen: Sequence[str]) -> None:
    """Raises `ValueError` for a name that is not seen, with those that are, nearest first."""
    for name in names:
        if name not in seen:
            near = lambda x, name=name: -difflib.SequenceMatcher(None, str(x), str(name)).ratio()
            there = sorted(dict.fromkeys(seen), key=near)
            rest = f" and {len(there) - LISTED} more" if len(there) > LISTED else ""
            found = f"among {there[:LISTED]}{rest}" if there else "by tasks.tap in a function"
            raise ValueError(
                f"where must name layers that the model runs, {found}, got {name!r}"
                f"{checks.near([name], there)}"
            )


def _checked(name: str, h: Array, new: Any) -> Array:
    if not (isinstance(new, jax.Array | np.ndarray) or jnp.isscalar(new)):
        raise ValueError(
            f"the edit of {name!r} must return {h.dtype} {list(h.shape)}, got {type(new).__name__}"
        )
    given = jax.eval_shape(lambda: new) if not isinstance(new, jax.Array) else new
    if given.shape != h.shape or given.dtype != h.dtype:
        raise ValueError(
            f"the edit of {name!r} must return {h.dtype} {list(h.shape)}, got {given.dtype} "
            f"{list(given.shape)}"
        )
    return jnp.asarray(new)
