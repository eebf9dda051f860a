"""LoRA: trainable low-rank changes of frozen weights.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685).
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks, trees
from unlearnjax.tasks.adapted import adapted
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

    A parameter with two axes or more, seen as a matrix `[rows, columns]` with its last axis for
    columns, has `{'a': [rows, r], 'b': [r, columns]}`, r at most its rank; b is first 0, so that
    nothing is changed. It is a change of weights, for models of any library; `merged` exports it.
    How a model comes in and is deployed says `adapted`.

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
      vectors: whether parameters of one axis or none have a change of their own, `{'offset'}`, in
        full; it is not scaled. Those of integers have none.
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
    checks.at_least(1, rank=rank)
    if not isinstance(rank, int | np.integer) or isinstance(rank, bool):
        raise ValueError(f"rank must be a whole number, got {rank}")
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
        rows, columns = math.prod(leaf.shape[:-1]), leaf.shape[-1]
        r = min(rank, rows, columns)
        return {
            "a": factor(key, (rows, r), _wide(leaf)),
            "b": jnp.zeros((r, columns), _wide(leaf)),
        }

    def change(leaf: Array, edit: Mapping[str, Array]) -> Array:
        edit = {name: x.astype(_wide(leaf)) for name, x in edit.items()}
        if "offset" in edit:
            return edit["offset"]
        return (scale * (edit["a"] @ edit["b"])).reshape(leaf.shape).astype(_wide(leaf))

    hint = ", which are floats" if vectors else ", which are floats with two axes"
    add = lambda leaf, edit: added(leaf, change(leaf, edit))
    student = adapted(task, where, fresh, add, collection, hint)
    return student if column is None else scaled(task, student, change, column, collection)


def _wide(leaf: Array | jax.ShapeDtypeStruct) -> jnp.dtype:
    """The type of changes: in a narrower one the steps of a training would be rounded away."""
    return jnp.promote_types(leaf.dtype, jnp.float32)
