"""Which parameters are trained; the others are frozen in a collection of their own."""

from collections.abc import Callable

import jax

from unlearnjax import trees
from unlearnjax.types import Array, Batch, PyTree, Task, Variables


def trained(task: Task, where: trees.Where, collection: str = "frozen") -> Task:
    """The task whose 'params' are only what `where` means.

    Optimizers, gradients and importances are of these alone; the other parameters are a collection
    that every model carries which is made in the place of this one, as a graph is. In 'params' and
    in the collection a tree has `None` for what the other one has.

    Its `init` makes what is trained afresh, and not what is frozen: a model that was trained before
    comes in by `split`, as `variables` or as `start` of a training, and leaves by `merged`.

    Args:
      task: any.
      where: names of parameters or of what holds them, or a function of a parameter's dotted name,
        see `trees.chosen`.
      collection: where the others are, if the name is taken.

    Raises:
      ValueError: at `init` and by `split`, if `where` names what there is not, or means nothing; at
        `apply` for variables without the collection, or split by another `where`.

    Examples:
      >>> from unlearnjax import models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> batch = {"inputs": jax.numpy.ones((1, 4))}
      >>> model = task.init(jax.random.key(0), batch)
      >>> last = tasks.trained(task, ["Dense_1"])
      >>> variables = tasks.split(model, ["Dense_1"])
      >>> trees.names(variables["params"]), trees.names(variables["frozen"])
      (['Dense_1.bias', 'Dense_1.kernel'], ['Dense_0.bias', 'Dense_0.kernel'])
      >>> tasks.merged(last, variables)["params"].keys() == model["params"].keys()
      True
    """

    def init(rng: Array, batch: Batch) -> Variables:
        return without(split(task.init(rng, batch), where, collection), collection)

    def whole(variables: Variables) -> Variables:
        frozen = held(variables, collection, "tasks.split")
        pick = lambda own, other: other if own is None else own
        params = jax.tree.map(pick, variables["params"], frozen, is_leaf=lambda x: x is None)
        own = jax.tree.structure(params).flatten_up_to(variables["params"])
        pairs = zip(trees.names(params), some_chosen(params, where), own, strict=True)
        other = [name for name, chosen, mine in pairs if chosen != (mine is not None)]
        if other:
            raise ValueError(
                f"where must be the one that the variables were split by, {other} are trained by "
                "one of them and frozen by the other"
            )
        return {**without(variables, collection), "params": params}

    return through(task._replace(init=init), whole, collection)


def split(variables: Variables, where: trees.Where, collection: str = "frozen") -> Variables:
    """The plain model as variables of `trained(task, where, collection)`; no array is copied.

    Raises:
      ValueError: see `trained`; for a collection that is there already.
    """
    free(variables, collection)
    leaves, treedef = jax.tree.flatten(variables["params"])
    chosen = some_chosen(variables["params"], where)
    parts = [
        treedef.unflatten(
            [leaf if own == mine else None for leaf, own in zip(leaves, chosen, strict=True)]
        )
        for mine in (True, False)
    ]
    return {**variables, "params": parts[0], collection: parts[1]}


def merged(task: Task, variables: Variables) -> Variables:
    """The plain model that these variables of `task` amount to, whatever it was made of.

    Undoes `trained`, `adapted`, `lora` and `channel_masks`, also of one another: for export, and
    for the task they were made of. Variables of another task are plain already.
    """
    return variables if task.merge is None else task.merge(variables)


def through(task: Task, whole: Callable[[Variables], Variables], collection: str) -> Task:
    """The task of another form of the variables, which `whole` turns into those of `task`.

    What is not 'params' or `collection` is updated as by `task`.
    """

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        outputs, updated = task.apply(whole(variables), batch, rng, train)
        own = {name: variables[name] for name in ("params", collection)}
        return outputs, {**updated, **own}

    return task._replace(apply=apply, merge=lambda variables: merged(task, whole(variables)))


def some_chosen(params: PyTree, where: trees.Where) -> list[bool]:
    """`trees.chosen`, which must not choose nothing."""
    chosen = trees.chosen(params, where)
    if not any(chosen):
        raise ValueError(f"where must choose some of {trees.names(params)}, it chooses none")
    return chosen


def held(variables: Variables, collection: str, maker: str) -> PyTree:
    """A collection that a model must have been given."""
    if collection not in variables:
        raise ValueError(
            f"variables must have the collection {collection!r}, which {maker} makes of a model's "
            f"and which is to be a training's start, they have {sorted(variables)}"
        )
    return variables[collection]


def free(variables: Variables, collection: str) -> None:
    """Refuses a name of a collection that there is."""
    if collection in variables:
        raise ValueError(f"collection must be none of {sorted(variables)}, got {collection!r}")


def without(variables: Variables, collection: str) -> Variables:
    """All other collections."""
    return {name: value for name, value in variables.items() if name != collection}
