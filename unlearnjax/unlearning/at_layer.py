"""A feature-space method at another layer than the penultimate one."""

from unlearnjax import checks, tasks
from unlearnjax.types import Request, Unlearner


def at_layer(unlearner: Unlearner, layer: str | None) -> Unlearner:
    """The unlearner, to which a layer's activations are the task's 'features' `[B, D]`.

    Args:
      unlearner: one that reads features, or `descend` with terms that do, such as
        `objectives.feature_distance`.
      layer: its dotted name, see `tasks.capture`; axes but the first are flattened. `None`: the
        features that the model returns.

    Raises:
      ValueError: for a layer that is no name; at a request, for one that the model does not run.

    Examples:
      >>> import optax
      >>> from unlearnjax import unlearning
      >>> early = at_layer(unlearning.laf(optax.adam(1e-3)), "Dense_0")
    """
    if layer is None:
        return unlearner
    checks.name(layer=layer)

    def init(rng, task, variables, data):
        return unlearner.init(rng, tasks.with_features(task, layer), variables, data)

    def update(rng, task, variables, memory, request: Request):
        given = tasks.with_features(task, layer), variables, memory, request
        return unlearner.update(rng, *given)

    return unlearner._replace(init=init, update=update)
