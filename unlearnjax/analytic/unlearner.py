"""ACU as an unlearner: the deployed model is a closed-form head that forgets exactly.

Tang et al., "ACU: Analytic Continual Unlearning for Efficient and Exact Forgetting with Privacy
Preservation", 2025 (arXiv 2505.12239).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.analytic import features as features_lib
from unlearnjax.analytic import recursive
from unlearnjax.types import Array, Data, Request, Task, Unlearner, Variables

BACKBONES = ("inputs", "model")


class ACUMemory(NamedTuple):
    """What is kept for later deletions: no data.

    Attributes:
      state: of the head, float64.
      possible: scalar bool, whether all deletions so far were of rows that had been learned, and
        within what float64 resolves (`precision`). One that was not left the head as it was.
    """

    state: recursive.State
    possible: Array


def acu(
    num_features: int = 1024,
    gamma: float = 10.0,
    *,
    form: str = "gram",
    backbone: str = "inputs",
    scale: float = 10.0,
    batch_size: int = 256,
) -> Unlearner:
    """Analytic continual unlearning: a ridge head on random features that forgets exactly.

    `init` learns the head from the training data in one pass, `update` takes the forget set's rows
    out of it: the result is the head that training on the rest alone would have given, up to
    rounding, without the rest. Features, head and updates are computed in float64.

    The model it was given is not deployed; with `backbone='model'` its penultimate features feed
    the head, and then only the head forgets, not the features.

    Args:
      num_features: D of the random expansion.
      gamma: regulariser, > 0.
      form: of the state, 'gram' or 'inverse'.
      backbone: 'inputs' (raw, flattened) or 'model' (the given model's features, frozen).
      scale: logits are the head's outputs (about 0 to 1) times this.
      batch_size: rows expanded at once.

    Returns:
      An unlearner that needs the training data at `init`, then forget data and labels. Cost of a
      request: one pass over the forget set, and `D^3` ('gram') or `n D^2` ('inverse').

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(1, num_features=num_features, batch_size=batch_size)
    checks.positive(gamma=gamma, scale=scale)
    checks.one_of(form=(form, tuple(recursive.FORMS)), backbone=(backbone, BACKBONES))

    def rows(task: Task, params: dict, data: Data, num_classes: int) -> tuple[Array, Array]:
        """In float64: a row must come out the same when it is forgotten, in other company."""
        params = {**params, "projection": params["projection"].astype(jnp.float64)}

        def per_batch(batch):
            return _features(task, params, batch)

        targets = features_lib.one_hot(data["targets"], num_classes, jnp.float64)
        return training.map_batches(per_batch, data, batch_size), targets

    def deployed(params: dict, state: recursive.State) -> Variables:
        return {"params": {**params, "head": scale * state.weight.astype(jnp.float32)}}

    def init(rng, task, variables, data):
        shapes = training.output_shapes(task, variables, data)
        num_classes = tasks.num_classes(shapes)
        if backbone == "inputs":
            width = data["inputs"][0].size
            params = {}
        else:
            width = tasks.features(shapes).shape[-1]
            params = {"backbone": variables}
        params["projection"] = features_lib.random_projection(rng, width, num_features)
        with jax.enable_x64(True):
            features, targets = rows(task, params, data, num_classes)
            empty = recursive.init(num_features, num_classes, gamma, form=form, dtype=jnp.float64)
            state = recursive.learn(empty, features, targets)
            return deployed(params, state), ACUMemory(state, jnp.bool_(True))

    def update(rng, task, variables, memory, request: Request):
        del rng
        if not data_lib.num_examples(request.forget):
            return variables, memory
        params = {k: v for k, v in variables["params"].items() if k != "head"}
        num_classes = memory.state.weight.shape[1]
        with jax.enable_x64(True):
            features, targets = rows(task, params, request.forget, num_classes)
            state, possible = recursive.try_forget(memory.state, features, targets)
            return deployed(params, state), ACUMemory(state, memory.possible & possible)

    return Unlearner(init, update, frozenset({"train", "forget", "inputs", "labels"}), serve=serve)


def serve(task: Task) -> Task:
    """The task of the closed-form head, for the variables of `acu`; served, not trained."""

    def apply(variables, batch, rng, train):
        del rng
        if train:
            raise ValueError("a closed-form head is served, not trained: train must be False")
        features = _features(task, variables["params"], batch)
        return {"features": features, "logits": features @ variables["params"]["head"]}, variables

    return task._replace(apply=apply)


def _features(task: Task, params: dict, batch) -> Array:
    inputs = batch["inputs"]
    if "backbone" in params:
        outputs, _ = tasks.expected(task, 1).apply(params["backbone"], batch, None, False)
        inputs = tasks.features(outputs)
    projection = params["projection"]
    return features_lib.expand(projection, inputs.astype(projection.dtype))
