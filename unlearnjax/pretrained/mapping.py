"""The contract between a published file and a model: a key map, read in both directions."""

import gc
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from unlearnjax import parallel
from unlearnjax.pretrained import files
from unlearnjax.types import Array, PyTree


class Layout(NamedTuple):
    """How a stored tensor and parameters of ours become each other.

    Attributes:
      load: `(stored, *shapes) -> array`, for several parameters a tuple of arrays: NumPy to NumPy,
        a view if possible. `shapes` are those of our parameters.
      save: `(*parameters) -> stored`. Also traced, for the shape that the file must have: methods
        of arrays and `jax.numpy` alone.
    """

    load: Callable[..., Any]
    save: Callable[..., Array]


AS_IS = Layout(lambda stored, shape: stored, lambda ours: ours)
# PyTorch has the outputs of a matrix first, and the pixels of a convolution last.
LINEAR = Layout(lambda stored, shape: stored.T, lambda ours: ours.T)
CONVOLUTION = Layout(
    lambda stored, shape: stored.transpose(2, 3, 1, 0), lambda ours: ours.transpose(3, 2, 0, 1)
)
# [heads * size, inputs] and [inputs, heads, size]; back, [outputs, heads * size].
TO_HEADS = Layout(
    lambda stored, shape: stored.T.reshape(shape), lambda ours: ours.reshape(len(ours), -1).T
)
FROM_HEADS = Layout(
    lambda stored, shape: stored.T.reshape(shape), lambda ours: ours.reshape(-1, ours.shape[-1]).T
)
FLAT = Layout(lambda stored, shape: stored.reshape(shape), lambda ours: ours.reshape(-1))


class Rule(NamedTuple):
    """Where one stored tensor belongs.

    Attributes:
      path: of our parameter, 'block/kernel'; several, where the file has them in one tensor.
      key: of the tensor in the file.
      layout: how one becomes the other.
    """

    path: str | tuple[str, ...]
    key: str
    layout: Layout = AS_IS

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path


class KeyMap(NamedTuple):
    """The layout of a family of files.

    Attributes:
      rules: one for every parameter.
      prefix: what the keys in a file may lack, such as the name of the model within a model.
      ignored: patterns of keys, each for all of it, of what files have and models do without.
    """

    rules: tuple[Rule, ...]
    prefix: str = ""
    ignored: tuple[str, ...] = ()


class Family(NamedTuple):
    """How a model reads a file; see `load` for what each is.

    Attributes:
      key_map: the layout of the file.
      replaceable: paths of the parameters of its classifier, if it has one.
      resize: by path, what makes a tensor fit.
      notes: what of the file is taken on trust, one line each.
    """

    key_map: KeyMap
    replaceable: tuple[str, ...] = ()
    resize: Mapping[str, Callable[[Array, tuple[int, ...]], Array]] = MappingProxyType({})
    notes: tuple[str, ...] = ()


class Loaded(NamedTuple):
    """What came out of a file.

    Attributes:
      params: nested, without the `fresh`.
      fresh: paths of parameters that are still to be initialised.
      resized: paths of those that were made to fit.
    """

    params: dict[str, Any]
    fresh: tuple[str, ...]
    resized: tuple[str, ...]


def repeated(rules: Iterable[Rule], number: int) -> tuple[Rule, ...]:
    """The rules for each of `number` blocks.

    In their paths and keys `{i}` is the block, from 0; of what a block has two of, numbered through
    all blocks, `{even}` is the first and `{odd}` the second.

    Examples:
      >>> [rule.path for rule in repeated([Rule("Dense_{odd}/bias", "h.{i}.b")], 2)]
      ['Dense_1/bias', 'Dense_3/bias']
    """

    def numbered(rule: Rule, i: int) -> Rule:
        fill = lambda text: text.format(i=i, even=2 * i, odd=2 * i + 1)
        paths = tuple(map(fill, rule.paths))
        path = paths[0] if isinstance(rule.path, str) else paths
        return Rule(path, fill(rule.key), rule.layout)

    return tuple(numbered(rule, i) for i in range(number) for rule in rules)


def load(
    source: str | os.PathLike | files.Tensors,
    like: PyTree,
    key_map: KeyMap,
    *,
    replaceable: Sequence[str] = (),
    resize: Mapping[str, Callable[[Array, tuple[int, ...]], Array]] | None = None,
    ignored: Sequence[str] = (),
) -> Loaded:
    """Parameters from a file, one tensor after another straight to where each belongs.

    Nothing is read before everything fits: each tensor is used exactly once, each parameter filled,
    each shape right. The host holds one tensor at a time beside what is placed.

    Args:
      source: see `files.open_tensors`.
      like: nested dict of what is wanted, arrays or `jax.ShapeDtypeStruct`: shapes, types (of
        floating-point numbers the file may have another one) and, if it has any, shardings.
      key_map: the layout of the file.
      replaceable: paths of a classifier's parameters. Where the file has none of them, or all of
        them for another number of classes, our last axis, they are left out and named in `fresh`.
      resize: by path, `(stored, shape) -> array` makes it fit; called for each, whatever its shape,
        also traced. It raises `ValueError` for what it cannot.
      ignored: patterns beside those of `key_map`.

    Raises:
      ValueError: that names the first five tensors or parameters that do not fit, or the tensor
        that is not finite in the type asked for.
    """
    tensors = source if isinstance(source, files.Tensors) else files.open_tensors(source)
    resize = resize or {}
    flat = _flat(like)
    rules = [rule for rule in key_map.rules if all(path in flat for path in rule.paths)]
    names, surplus = _names(tensors, key_map, {rule.key for rule in rules}, ignored)
    problems = {}
    for rule in rules:
        shapes = [jax.ShapeDtypeStruct(flat[path].shape, flat[path].dtype) for path in rule.paths]
        stored = tensors.shapes[names[rule.key]] if rule.key in names else None
        problem = _problem(rule, stored, shapes, resize.get(rule.path))
        if problem:
            problems[rule] = problem
    fresh = ()
    optional = [rule for rule in rules if set(rule.paths) <= set(replaceable)]
    stored = {rule: tensors.shapes[names[rule.key]] for rule in optional if rule.key in names}
    misfits = any(rule in problems for rule in optional)
    if misfits and (not stored or _of_other_classes(optional, stored, flat)):
        fresh = tuple(replaceable)
        problems = {rule: text for rule, text in problems.items() if rule not in optional}
        rules = [rule for rule in rules if rule not in optional]
    placeless = set(flat) - set(fresh) - {path for rule in rules for path in rule.paths}
    _refuse(
        tensors,
        [
            *problems.values(),
            *surplus,
            *(f"the model's {path} has no place in such files" for path in sorted(placeless)),
        ],
    )
    params, resized = {}, []
    for rule in rules:
        shapes = [flat[path].shape for path in rule.paths]
        stored = tensors.read(names[rule.key])
        if rule.path in resize:
            parts = (resize[rule.path](stored, *shapes),)
            resized += [rule.path] if parts[0] is not stored else []
        else:
            parts = rule.layout.load(stored, *shapes)
            parts = (parts,) if isinstance(rule.path, str) else parts
        del stored
        for path, part in zip(rule.paths, parts, strict=True):
            params[path] = _placed(part, flat[path], f"weights {tensors.path}: {names[rule.key]}")
        del parts, part
        gc.collect(0)  # when it runs, jax lets go of host memory that it has copied from
    return Loaded(traverse_util.unflatten_dict(params, sep="/"), fresh, tuple(resized))


def save(
    path: str | os.PathLike, params: PyTree, key_map: KeyMap, *, replaceable: Sequence[str] = ()
) -> None:
    """Writes parameters in the layout of the files that `load` reads, bit by bit the same.

    Every process calls it; the main one writes. The host holds all of them meanwhile.

    Args:
      path: of a `.safetensors` file, or a `.npz`.
      params: nested dict.
      key_map: the layout; keys get its prefix.
      replaceable: paths of a classifier's parameters, which may all be missing: the file is then
        one without a classifier.

    Raises:
      ValueError: that names the first five parameters that have no place in such a file, or that
        such a file has and `params` lack; for the ending of `path`.
    """
    flat = _flat(params)
    headless = not any(path in flat for path in replaceable)
    left_out = set(replaceable) if headless else set()
    rules = [rule for rule in key_map.rules if not set(rule.paths) <= left_out]
    placed = dict.fromkeys(path for rule in rules for path in rule.paths)
    placeless, lacking = sorted(set(flat) - set(placed)), [p for p in placed if p not in flat]
    if placeless:
        raise ValueError("params have no place in such files: " + _first(placeless))
    if lacking:
        raise ValueError("params lack what such files have: " + _first(lacking))
    tensors = {
        rule.key: np.asarray(rule.layout.save(*parallel.fetch([flat[p] for p in rule.paths])))
        for rule in rules
    }
    if parallel.is_main_process():
        files.write_tensors(path, tensors)


def _flat(params: PyTree) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")


def _names(
    tensors: files.Tensors, key_map: KeyMap, keys: set[str], ignored: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """By key the name in the file, and what is wrong with names that are nobody's."""
    names, wrong = {}, []
    for name in tensors.shapes:
        key = name if name in keys else key_map.prefix + name
        if any(re.fullmatch(pattern, name) for pattern in (*key_map.ignored, *ignored)):
            continue
        if key not in keys:
            wrong.append(f"surplus {name}")
        elif key in names:
            wrong.append(f"{names[key]} and {name} are the same")
        else:
            names[key] = name
    return names, wrong


def _problem(rule: Rule, stored, shapes: list[jax.ShapeDtypeStruct], resize) -> str:
    """Why a stored tensor does not fit, '' if it does; nothing is read."""
    if stored is None:
        return f"missing {rule.key}"
    wanted = jax.eval_shape(rule.layout.save, *shapes)
    floating = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (stored, wanted))
    if stored.dtype != wanted.dtype and not floating:
        return f"{rule.key} is of type {stored.dtype}, must be {wanted.dtype}"
    if resize is not None:
        try:
            stored = jax.eval_shape(lambda x: resize(x, shapes[0].shape), stored)
        except ValueError as error:
            return f"{rule.key} {list(stored.shape)}: {error}"
    if stored.shape != wanted.shape:
        return f"{rule.key} is {list(stored.shape)}, must be {list(wanted.shape)}"
    return ""


def _of_other_classes(rules: Sequence[Rule], stored: Mapping[Rule, Any], flat: dict) -> bool:
    """Whether all would fit, if the last axis of each of our parameters were of one other size."""
    if len(stored) < len(rules):
        return False

    def fit(classes: int) -> bool:
        resized = lambda x: jax.ShapeDtypeStruct((*x.shape[:-1], classes), x.dtype)
        shapes = {rule: [resized(flat[path]) for path in rule.paths] for rule in rules}
        return not any(_problem(rule, stored[rule], shapes[rule], None) for rule in rules)

    return any(fit(size) for size in {size for x in stored.values() for size in x.shape})


def _refuse(tensors: files.Tensors, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"weights {tensors.path} do not fit: {_first(problems)}")


def _first(lines: list[str]) -> str:
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return "; ".join(lines[:5]) + more


def _placed(tensor, like, name: str) -> Array:
    """On the device, before the next tensor is read."""
    with np.errstate(over="ignore"):
        tensor = tensor.astype(like.dtype, copy=False)
    if jnp.issubdtype(like.dtype, jnp.floating) and tensor.size:
        # By the extremes, which need no memory and are NaN if anything is.
        if not all(np.isfinite(float(end)) for end in (tensor.min(), tensor.max())):
            raise ValueError(f"{name} must be finite, it has NaN or infinity as {like.dtype}")
    return jax.block_until_ready(jax.device_put(tensor, getattr(like, "sharding", None)))
