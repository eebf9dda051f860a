"""What an unlearner declares that it looks at is all that it is handed."""

import jax
import jax.numpy as jnp

from unlearnjax.types import NEEDS, Data, Request, Task, Unlearner, Variables

# The columns that a need stands for.
_COLUMNS = {"inputs": "inputs", "labels": "targets"}


def enforce(unlearner: Unlearner) -> Unlearner:
    """The same unlearner, handed only what its `needs` name.

    Parts of a request that are not needed become `None`, `targets` and `inputs` are removed from
    the rest unless 'labels' and 'inputs' are needed, and `init` gets the training data only if
    'train' is. What a request has `edited` takes the place of these collections of the model before
    the method sees it; `request.original` is then the model as it was.

    Raises:
      ValueError: here for a need that does not exist; at `init`/`update` for one that is not given;
        for a request that edits what the model has not, or to other shapes or types, or that leaves
        as it was what `Task.edited` names.

    Examples:
      >>> from unlearnjax import unlearning
      >>> from unlearnjax.types import Request
      >>> method = unlearning.enforce(unlearning.finetune(optax.sgd(0.1)))
      >>> method.update(None, None, {}, (), Request(forget={}))
      Traceback (most recent call last):
      ValueError: this unlearner needs 'retain' data and none was given
    """
    unknown = unlearner.needs - NEEDS
    if unknown:
        raise ValueError(f"needs must be among {sorted(NEEDS)}, got {sorted(unknown)}")

    def restrict(name: str, data: Data | None) -> Data | None:
        if name not in unlearner.needs:
            return None
        if data is None:
            raise ValueError(f"this unlearner needs {name!r} data and none was given")
        if data and "inputs" in unlearner.needs and "inputs" not in data:
            raise ValueError(f"this unlearner needs 'inputs' of {name!r}, got {sorted(data)}")
        withheld = {column for need, column in _COLUMNS.items() if need not in unlearner.needs}
        return {key: value for key, value in data.items() if key not in withheld}

    def init(rng, task, variables, data):
        return unlearner.init(rng, task, variables, restrict("train", data))

    def update(rng, task, variables, memory, request):
        parts = {n: restrict(n, getattr(request, n)) for n in ("forget", "retain", "validation")}
        request = request._replace(**parts)
        variables, request = _edited(task, variables, request)
        return unlearner.update(rng, task, variables, memory, request)

    return unlearner._replace(init=init, update=update)


def _edited(task: Task, variables: Variables, request: Request) -> tuple[Variables, Request]:
    """The model with what the request replaces, and the request with the model as it was."""
    edited = request.edited or {}
    left = [name for name in getattr(task, "edited", ()) if name not in edited]
    if left:
        raise ValueError(
            f"a request to this task must have edited={{{left[0]!r}: ...}}, the collection without "
            f"what is to be forgotten, got {sorted(edited) or None}"
        )
    if not edited:
        return variables, request
    unknown = [name for name in edited if name not in variables or name == "params"]
    if unknown:
        known = sorted(name for name in variables if name != "params")
        raise ValueError(f"edited must replace some of the collections {known}, got {unknown}")
    for name, value in edited.items():
        own, given = (_kinds(tree) for tree in (variables[name], value))
        if not (own == given or _stacked(variables[name], value)):
            raise ValueError(f"edited[{name!r}] must be like the model's {own[1]}, got {given[1]}")
    original = variables if request.original is None else request.original
    return {**variables, **edited}, request._replace(original=original)


def _kinds(tree) -> tuple:
    """Structure, shapes and types of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves]


def _stacked(own, given) -> bool:
    """Whether `own` is that of several models, as an ensemble's is, of the kind that is given."""
    structure, leaves = jax.tree.structure(own), jax.tree.leaves(own)
    one = [jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)) for x in leaves]
    return all(map(jnp.ndim, leaves)) and _kinds(structure.unflatten(one)) == _kinds(given)
