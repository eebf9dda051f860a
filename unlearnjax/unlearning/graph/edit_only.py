"""The graph is edited, and nothing is trained: the row that every table of graphs should have."""

from unlearnjax.types import Request, Unlearner
from unlearnjax.unlearning.descend import init_nothing


def edit_only() -> Unlearner:
    """The trained parameters on what the request has `edited`.

    What is predicted without a deleted node or edge already differs from what was predicted with
    it; a method is worth what it does beyond this.

    Returns:
      An unlearner that needs nothing, and costs nothing.
    """

    def update(rng, task, variables, memory, request: Request):
        del rng, task, request
        return variables, memory

    return Unlearner(init_nothing, update, frozenset())
