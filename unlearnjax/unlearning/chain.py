"""One unlearner after another."""

import jax

from unlearnjax.types import Unlearner


def chain(*unlearners: Unlearner) -> Unlearner:
    """Applies unlearners in order, each to the model that the one before it returns.

    `request.original`, the teacher of methods that distil from the original model, stays the model
    from before the first. The chain needs what any link needs, and every link is handed all of it.

    Raises:
      ValueError: without unlearners.

    Examples:
      >>> from unlearnjax import unlearning
      >>> tx = unlearning.keep_zeros(optax.adam(1e-3))
      >>> sorted(unlearning.chain(unlearning.prune(0.9), unlearning.finetune(tx)).needs)
      ['inputs', 'labels', 'retain']
    """
    if not unlearners:
        raise ValueError("chain must be given at least one unlearner, got none")

    def init(rng, task, variables, data):
        memories = []
        for key, link in zip(jax.random.split(rng, len(unlearners)), unlearners, strict=True):
            variables, memory = link.init(key, task, variables, data)
            task = link.serve(task)
            memories.append(memory)
        return variables, tuple(memories)

    def update(rng, task, variables, memory, request):
        if request.original is None:
            request = request._replace(original=variables)
        memories = []
        keys = jax.random.split(rng, len(unlearners))
        for key, link, own in zip(keys, unlearners, memory, strict=True):
            variables, own = link.update(key, task, variables, own, request)
            task = link.serve(task)
            memories.append(own)
        return variables, tuple(memories)

    def serve(task):
        for link in unlearners:
            task = link.serve(task)
        return task

    return Unlearner(init, update, frozenset().union(*(u.needs for u in unlearners)), serve)
