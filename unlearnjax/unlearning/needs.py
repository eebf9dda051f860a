"""What an unlearner declares that it looks at is all that it is handed."""

from unlearnjax.types import NEEDS, Data, Unlearner

# The columns that a need stands for.
_COLUMNS = {"inputs": "inputs", "labels": "targets"}


def enforce(unlearner: Unlearner) -> Unlearner:
    """The same unlearner, handed only what its `needs` name.

    Parts of a request that are not needed become `None`, `targets` and `inputs` are removed from
    the rest unless 'labels' and 'inputs' are needed, and `init` gets the training data only if
    'train' is.

    Raises:
      ValueError: here for a need that does not exist; at `init`/`update` for one that is not given.

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
        return unlearner.update(rng, task, variables, memory, request._replace(**parts))

    return unlearner._replace(init=init, update=update)
