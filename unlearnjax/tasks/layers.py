"""Which layers a model has, and in which order, seen from its computation alone."""

from collections.abc import Iterator

import jax
from jax.extend import core

from unlearnjax import trees
from unlearnjax.tasks.draws import drawn
from unlearnjax.types import Batch, Task, Variables


def layer_names(task: Task, variables: Variables, batch: Batch) -> list[str]:
    """Dotted names of the layers, in the order in which the model first uses their parameters.

    A layer is a group of parameters without groups below it: `Dense_0` of a Linen module, `first`
    of an NNX module, the parameter itself where parameters are not grouped. Computes nothing.

    Args:
      task: its `apply` may be of any library.
      variables: the model's.
      batch: one example is enough.

    Examples:
      >>> from unlearnjax import models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3)))
      >>> batch = {"inputs": jax.numpy.ones((1, 4))}
      >>> layer_names(task, task.init(jax.random.key(0), batch), batch)
      ['Dense_0', 'Dense_1', 'Dense_2']
    """

    batch = drawn(task, batch)

    def outputs(params):
        return task.apply({**variables, "params": params}, batch, None, False)[0]

    jaxpr = jax.make_jaxpr(outputs)(variables["params"]).jaxpr
    paths = trees.names(variables["params"])
    groups = {path.rpartition(".")[0] for path in paths}
    # A group with groups below it is no layer: its own parameters (a position embedding) are none.
    above = {group[:i] for group in groups for i in range(len(group)) if group[i] == "."}
    above |= {""} if groups != {""} else set()
    used = _first_used(jaxpr, dict(zip(jaxpr.invars, paths, strict=True)))
    pairs = ((path.rpartition(".")[0], path) for path in used)
    return list(dict.fromkeys(group or path for group, path in pairs if group not in above))


def _first_used(jaxpr: core.Jaxpr, name_of: dict[core.Var, str]) -> Iterator[str]:
    """Names of variables in the order in which equations, also of inner programs, read them."""
    for equation in jaxpr.eqns:
        given = [name_of.get(x) if isinstance(x, core.Var) else None for x in equation.invars]
        if not any(given):
            continue
        inner = [getattr(x, "jaxpr", x) for x in equation.params.values()]
        inner = [x for x in inner if isinstance(x, core.Jaxpr) and len(x.invars) == len(given)]
        if inner:
            of_inner = {v: name for v, name in zip(inner[0].invars, given, strict=True) if name}
            yield from _first_used(inner[0], of_inner)
        else:
            yield from (name for name in given if name)
