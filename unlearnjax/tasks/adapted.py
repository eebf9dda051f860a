"""A trainable edit of parameters beside a frozen base."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearnjax import trees
from unlearnjax.tasks.trained import free, held, some_chosen, through, without
from unlearnjax.types import Array, Batch, PyTree, Task, Variables

# (key, shape and type of a parameter) -> its edit; None: it has none.
InitEdit = Callable[[Array, jax.ShapeDtypeStruct], PyTree]


def adapted(
    task: Task,
    where: trees.Where,
    init: InitEdit,
    fn: Callable[[Array, PyTree], Array],
    collection: str = "base",
    hint: str = "",
) -> Task:
    """The task whose 'params' are edits of parameters that are frozen.

    Optimizers, gradients and importances are of the edits alone. The frozen ones are a collection
    that every model carries which is made in the place of this one: a retrained model has fresh
    edits of the same base. The edits are a tree like the parameters, with the edit of each in its
    place, and `None` where there is none.

    Its `init` makes edits, not the base: a model comes in by `as_base`, as `start` of
    `training.init_variables` or of a training, and leaves by `merged`.

    Args:
      task: any, of any library.
      where: the edited parameters, see `trees.chosen`; `None` is all that `init` edits.
      init: a parameter's edit, from a key and its shape and type; `None` for one that has none.
      fn: `(parameter, edit) -> parameter`.
      collection: where the base is, if the name is taken: an edit of edits has two.
      hint: ends the error for parameters that `init` does not edit.

    Raises:
      ValueError: at `init`, if `where` names what there is not, or only what `init` does not edit;
        at `apply` for variables without the collection.

    Examples:
      >>> from unlearnjax import models, tasks, training
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> data = {"inputs": jnp.ones((5, 4))}
      >>> model = training.init_variables(task, data, jax.random.key(0))
      >>> shifted = adapted(task, ["*.bias"], lambda key, p: jnp.zeros(p.shape), jnp.add)
      >>> start = as_base(model)
      >>> variables = training.init_variables(shifted, data, jax.random.key(1), start)
      >>> trees.names(variables["params"])
      ['Dense_0.bias', 'Dense_1.bias']
      >>> bool((tasks.merged(shifted, variables)["params"]["Dense_0"]["bias"] == 0).all())
      True
    """
    make = lambda rng, params: edits(rng, params, where, init, hint)
    return edited_by(task, make, fn, collection)


def edited_by(
    task: Task,
    make: Callable[[Array, PyTree], PyTree],
    fn: Callable[[Array, PyTree], Array],
    collection: str,
) -> Task:
    """As `adapted`, whose fresh edits are `make(key, shapes and types of the parameters)`."""

    def fresh(rng: Array, batch: Batch) -> Variables:
        shapes = jax.eval_shape(task.init, rng, batch)
        # Compiled, so that no base is made beside the one that there is; statistics often are none.
        rest = jax.jit(lambda *given: without(task.init(*given), "params"))
        others = rest(rng, batch) if len(shapes) > 1 else {}
        return {**others, "params": make(rng, shapes["params"])}

    def whole(variables: Variables) -> Variables:
        base = held(variables, collection, "tasks.as_base")
        params = edited(base, variables["params"], fn)
        return {**without(variables, collection), "params": params}

    return through(task._replace(init=fresh), whole, collection)


def edits(rng: Array, params: PyTree, where: trees.Where, init: InitEdit, hint: str = "") -> PyTree:
    """Fresh edits of `params`, whose shapes and types alone are read, see `adapted`.

    That of a parameter does not depend on which others `where` means.
    """
    leaves, treedef = jax.tree.flatten(params)
    chosen = some_chosen(params, where)
    keys = jax.random.split(rng, len(leaves))
    made = [
        init(key, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)) if own else None
        for key, leaf, own in zip(keys, leaves, chosen, strict=True)
    ]
    for name in [where] if where is None or callable(where) else where:
        own = trees.chosen(params, [name] if isinstance(name, str) else name)
        if not any(mine and edit is not None for mine, edit in zip(own, made, strict=True)):
            refused = {
                path: list(leaf.shape)
                for path, leaf, mine in zip(trees.names(params), leaves, own, strict=True)
                if mine
            }
            raise ValueError(
                f"where must choose parameters that can be edited{hint}, got {name!r}: {refused}"
            )
    return treedef.unflatten(made)


def edited(base: PyTree, edits: PyTree, fn: Callable[[Array, PyTree], Array]) -> PyTree:
    """The parameters with their edits."""
    leaves, treedef = jax.tree.flatten(base)
    pairs = zip(leaves, treedef.flatten_up_to(edits), strict=True)
    return treedef.unflatten([leaf if edit is None else fn(leaf, edit) for leaf, edit in pairs])


def as_base(variables: Variables, collection: str = "base") -> Variables:
    """The plain model as the start of adapters: its 'params' become the collection.

    Running statistics come along; where a model is made in the place of this one they begin anew,
    since they are of the data.

    Raises:
      ValueError: for a collection that is there already.
    """
    free(variables, collection)
    return {**without(variables, "params"), collection: variables["params"]}


def channel_masks(task: Task, where: trees.Where, collection: str = "base") -> Task:
    """The task whose parameters are multipliers, one for each output channel, first all 1.

    Output channels are a parameter's last axis: of a kernel its units, of a norm's scale its own.
    A threshold of the masks gives a pruned model; see `adapted`, also for Args.

    References:
      Wu and Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021.
      Li et al., "Reconstructive Neuron Pruning for Backdoor Defense", ICML 2023.
    """

    def init(key: Array, leaf: jax.ShapeDtypeStruct) -> Array | None:
        del key
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.ones(leaf.shape[-1], leaf.dtype) if leaf.shape and floats else None

    return adapted(task, where, init, jnp.multiply, collection, ", which are floats with an axis")
