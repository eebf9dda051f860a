"""LoRA: trainable low-rank changes of frozen weights.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685).
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from unlearnjax import checks, trees
from unlearnjax.tasks.adapted import edited_by, edits
from unlearnjax.tasks.scaled import added, scaled
from unlearnjax.types import Array, PyTree, Task

# (key, shape [rows, rank], type) -> a
InitFactor = Callable[..., Array]


def uniform(key: Array, shape: tuple[int, int], dtype) -> Array:
    """`U(-1/sqrt(rows), 1/sqrt(rows))`, as PEFT has it."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def normal(key: Array, shape: tuple[int, int], dtype) -> Array:
    """`N(0, 1/rows)`, as S3T has it."""
    return jax.random.normal(key, shape, dtype) / jnp.sqrt(shape[0]).astype(dtype)


INITS = {"uniform": uniform, "normal": normal}


def lora(
    task: Task,
    rank: int,
    where: trees.Where = None,
    *,
    alpha: float | None = None,
    init: str | InitFactor = "uniform",
    vectors: bool = False,
    column: str | None = None,
    collection: str = "base",
) -> Task:
    """The task whose parameters are low-rank changes of a frozen model: `W + alpha / rank a b`.

    A parameter with two axes or more, seen as the matrix `[rows, columns]` its layer multiplies
    by, has `{'a': [rows, r], 'b': [r, columns]}`, r at most its rank; b is first 0, so that nothing
    is changed. Columns are the last axis, as of a dense layer, a convolution `[h w c, d]` and the
    outputs of attention `[H h, D]`. Of queries, keys and values of H heads, kernels `[D, H, h]`
    beside that of 'out' as Linen and NNX have them, rows are the first axis alone: `[D, H h]`, as
    in the paper and its implementations. It is a change of weights, for models of any library;
    `merged` exports it. How a model comes in and is deployed says `adapted`.

    Changes, their products and sums are float32 at least, whatever the model is in. The changed
    weight has the type of W: of a base in bfloat16 it is rounded to 8 bits, so that a change below
    1/512 of a weight is lost, in what `merged` exports, too. With `column` a change of what
    `tasks.scaled.LINEAR` lists is added to what the layer returns instead, not rounded with W.

    Args:
      task: any.
      rank: of the changes; at or above a matrix's own they are any change.
      where: the changed parameters, see `trees.chosen`; a name must mean one that can be changed,
        others below it stay. `None` is all that can be.
      alpha: the change is scaled by `alpha / rank`; `None` is not at all. May be traced.
      init: of a: 'uniform' in `+-1/sqrt(rows)`, 'normal' of variance `1 / rows`, or a function
        `(key, shape, dtype)`, such as of `jax.nn.initializers`.
      vectors: whether parameters of one axis or none, and those named 'bias' of any (of heads
        `[H, h]`), have a change of their own, `{'offset'}`, flat and in full; it is not scaled.
        Those of integers have none.
      column: of a batch, `[B]`, by which the whole change of an example is multiplied, offsets too;
        `None`: by 1. See `tasks.scaled.scaled` for what it costs and refuses, and for the shape
        `[B, 1, ...]` of hooked activations.
      collection: where the base is, if the name is taken.

    Returns:
      The task. A step keeps gradients and optimizer state of the changes alone. On its way it makes
      every changed weight, and its gradient, once.

    Raises:
      ValueError: for a value out of range; at `init` if `where` means nothing that can be changed;
        at `apply` for variables without base, or a batch without `column`.

    Examples:
      >>> from unlearnjax import models, tasks, training
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> data = {"inputs": jnp.ones((5, 4)), "targets": jnp.arange(5) % 3}
      >>> model = training.init_variables(task, data, jax.random.key(0))
      >>> student = tasks.lora(task, rank=2, where=["Dense_0"])
      >>> start = tasks.as_base(model)
      >>> variables = training.init_variables(student, data, jax.random.key(1), start)
      >>> jax.tree.map(jnp.shape, variables["params"]["Dense_0"]["kernel"])
      {'a': (4, 2), 'b': (2, 8)}
    """
    checks.whole(rank=rank)
    checks.at_least(1, rank=rank)
    if alpha is not None:
        checks.positive(alpha=alpha)
    if not callable(init):
        checks.one_of(init=(init, tuple(INITS)))
    factor = INITS.get(init, init) if isinstance(init, str) else init
    scale = 1.0 if alpha is None else alpha / rank

    def fresh(key: Array, leaf: jax.ShapeDtypeStruct) -> PyTree:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return None
        if len(leaf.shape) < 2:
            return {"offset": jnp.zeros(leaf.shape, _wide(leaf))} if vectors else None
        rows, columns = leaf.shape
        r = min(rank, rows, columns)
        return {
            "a": factor(key, (rows, r), _wide(leaf)),
            "b": jnp.zeros((r, columns), _wide(leaf)),
        }

    def change(leaf: Array, edit: Mapping[str, Array]) -> Array:
        edit = {name: x.astype(_wide(leaf)) for name, x in edit.items()}
        found = edit["offset"] if "offset" in edit else scale * (edit["a"] @ edit["b"])
        return found.reshape(leaf.shape).astype(_wide(leaf))

    hint = ", which are floats" if vectors else ", which are floats with two axes"
    add = lambda leaf, edit: added(leaf, change(leaf, edit))
    make = lambda rng, params: edits(rng, _matrices(params), where, fresh, hint)
    student = edited_by(task, make, add, collection)
    return student if column is None else scaled(task, student, change, column, collection)


def _matrices(params: PyTree) -> PyTree:
    """Every parameter in the shape that its layer multiplies by, or adds: of two axes at most."""
    leaves, treedef = jax.tree.flatten(params)
    shapes = dict(zip(trees.names(params), (leaf.shape for leaf in leaves), strict=True))

    def of_heads(path: str, shape: tuple[int, ...]) -> bool:
        """Whether this is a kernel `[D, H, h]`, beside one `[H, h, D]` of the outputs."""
        block, layer, name = ("", "", *path.rsplit(".", 2))[-3:]
        out = shapes.get(f"{block}.out.kernel".removeprefix("."), ())
        # Also a convolution may have such a name; no kernel of outputs fits to it.
        named = name == "kernel" and layer in ("query", "key", "value")
        return named and len(shape) == len(out) == 3 and out[:2] == shape[1:]

    def matrix(path: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = leaf.shape
        if len(shape) > 1 and path.rpartition(".")[2] == "bias":
            shape = (math.prod(shape),)
        elif len(shape) > 2:
            cut = 1 if of_heads(path, shape) else -1
            shape = (math.prod(shape[:cut]), math.prod(shape[cut:]))
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    pairs = zip(shapes, leaves, strict=True)
    return treedef.unflatten([matrix(path, leaf) for path, leaf in pairs])


def _wide(leaf: Array | jax.ShapeDtypeStruct) -> jnp.dtype:
    """The type of changes: in a narrower one the steps of a training would be rounded away."""
    return jnp.promote_types(leaf.dtype, jnp.float32)
