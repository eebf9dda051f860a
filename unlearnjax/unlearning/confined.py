"""A method that moves some of the parameters only."""

from collections.abc import Sequence

from unlearnjax import checks, tasks, trees
from unlearnjax.types import PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import teachers

# The collection of what does not move.
_FROZEN = "frozen_by_confined"


def confined(
    unlearner: Unlearner, where: trees.Where, but: trees.Where | tuple[()] = ()
) -> Unlearner:
    """The unlearner, to which a model's parameters are only those that `where` means.

    All others stay bit-equal, without gradients and moments, and importances, masks and penalties
    are of those that move alone. What the method deploys are plain variables.

    Args:
      unlearner: any that moves what is in 'params'.
      where: see `trees.chosen`; `None` is all.
      but: which of them stay after all.

    Raises:
      ValueError: for text in the place of several names; at `init` and at a request, for a name
        that the model has not, or where nothing is left to move.

    Examples:
      >>> import optax
      >>> from unlearnjax import unlearning
      >>> last = confined(unlearning.finetune(optax.sgd(0.1)), ["Dense_1"], but=["*.bias"])
    """
    for name, value in {"where": where, "but": but}.items():
        if value is not None and not callable(value):
            checks.not_text(**{name: value})
    if where is None and not callable(but) and not len(but):
        return unlearner

    def within(task: Task, variables: Variables, run):
        moves = set(moving(variables["params"], where, but)).__contains__
        # Without `merge`, what is merged below is the choice of parameters alone.
        own = tasks.trained(task._replace(merge=None), moves, _FROZEN)
        part = lambda model: tasks.split(model, moves, _FROZEN)
        given = part(variables)
        found, memory = run(own, given, part)
        return tasks.merged(own, {**found, _FROZEN: given[_FROZEN]}), memory

    def init(rng, task, variables, data):
        run = lambda own, given, part: unlearner.init(rng, own, given, data)
        return within(task, variables, run)

    def update(rng, task, variables, memory, request: Request):
        def run(own, given, part):
            before = part(teachers.original(variables, request))
            return unlearner.update(rng, own, given, memory, request._replace(original=before))

        return within(task, variables, run)

    return unlearner._replace(init=init, update=update)


def moving(params: PyTree, where: trees.Where, but: Sequence[str] | trees.Where = ()) -> list[str]:
    """Names of the parameters that `where` means and `but` does not.

    Raises:
      ValueError: for a name that the model has not, or if there are none.
    """
    names = trees.names(params)
    kept = trees.chosen(params, but, "but") if callable(but) or but else [False] * len(names)
    pairs = zip(names, trees.chosen(params, where), kept, strict=True)
    found = [name for name, chosen, stays in pairs if chosen and not stays]
    if not found:
        raise ValueError(f"where must choose some of {names} that but={but!r} leaves, got none")
    return found
