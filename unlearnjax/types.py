"""The five nouns: Batch, Variables, Task, Request, Unlearner.

An unlearner is to a trained model what an optax transformation is to a gradient: a pair of pure
functions over pytrees that composes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

PyTree = Any
Array = jax.Array

# 'inputs' [B, ...], 'targets' [B], 'index' [B] (an id, see `unlearning.ids`) and, once batched,
# 'weight' [B] (0 marks padding). Further keys ('identity', ...) are carried along.
Batch = Mapping[str, Array]
# A whole data set has the form of a Batch with leading axis N.
Data = Batch
# {'params': ..., plus mutable collections such as 'batch_stats'}
Variables = Mapping[str, PyTree]
# 'logits' [B, C], 'features' [B, D], ...
Outputs = Mapping[str, Array]
Memory = PyTree


class Task(NamedTuple):
    """What is learned: a model and its loss, as pure functions.

    Attributes:
      init: `(rng, batch) -> variables`.
      apply: `(variables, batch, rng, train) -> (outputs, variables)`. `rng` may be `None` when
        `train` is `False`; then the returned variables equal those given.
      loss: `(outputs, batch) -> [B]`, per example, always; the negative log-likelihood where the
        task is probabilistic (curvature relies on it).
      metrics: `(outputs, batch) -> {name: [B]}`, per example.
      draw: `(rng, example, train) -> example` adds what is random about the loss (a time and its
        noise, a latent, a crop) to one example, without a batch axis; `None` where nothing is.
        With `train` false it leaves out what is for training alone, such as augmentation. The
        example has the column `stratum` `[2]`, `[0, 1]` but in evaluation, see `tasks.expected`.
      divergence: `(outputs, reference, batch, temperature=1) -> [B]`, how far a prediction is from
        another model's on the same batch; `None` where predictions are not compared.
      num_draws: how many draws evaluation averages; 0 where it draws nothing.
      generate: `(task, variables, rng, batch) -> outputs`, samples or continuations, by calling the
        `apply` of the task that it is handed, so that whatever replaces that (`tasks.edit`, an
        unlearner's `serve`) reaches it; call it by `tasks.generate`. `None` where the task
        generates nothing.
      merge: `variables -> variables` of the plain model, if what is learned are a model's adapters,
        masks or some of its parameters, see `tasks.merged`; `None` where they are plain.
      edited: collections that a request replaces, such as the graph that nodes are deleted from;
        `unlearning.enforce` refuses a request that leaves one as it was.
    """

    init: Callable[[Array, Batch], Variables]
    apply: Callable[[Variables, Batch, Array | None, bool], tuple[Outputs, Variables]]
    loss: Callable[[Outputs, Batch], Array]
    metrics: Callable[[Outputs, Batch], dict[str, Array]]
    draw: Callable[[Array, Batch, bool], Batch] | None = None
    divergence: Callable[..., Array] | None = None
    num_draws: int = 1
    generate: Callable[["Task", Variables, Array, Batch], Outputs] | None = None
    merge: Callable[[Variables], Variables] | None = None
    edited: tuple[str, ...] = ()


class Request(NamedTuple):
    """What is to be forgotten. `None` marks what is not handed over.

    Attributes:
      forget: the forget set.
      retain: the rest of the training set.
      validation: held-out data of the training distribution, for methods that select a checkpoint.
      original: the model from before the first link of a chain, or before what is `edited` was put
        into it; `None` is the one given.
      edited: collections of the model that the request replaces, `{name: tree}` of the shapes there
        are, such as a graph without its deleted edges. `unlearning.enforce` puts them in place, so
        that every method starts on them.
    """

    forget: Data | None
    retain: Data | None = None
    validation: Data | None = None
    original: Variables | None = None
    edited: Mapping[str, PyTree] | None = None


def _serve_unchanged(task: Task) -> Task:
    return task


class Unlearner(NamedTuple):
    """How it is forgotten.

    Attributes:
      init: `(rng, task, variables, data) -> (variables, memory)`; once, while the training data
        `data` is still at hand.
      update: `(rng, task, variables, memory, request) -> (variables, memory)`; per request,
        repeatable.
      needs: what the method may look at, out of `NEEDS`. `unlearning.enforce` hands it no more.
      serve: `task -> Task` that understands the variables this method deploys.
    """

    init: Callable[[Array, Task, Variables, Data | None], tuple[Variables, Memory]]
    update: Callable[[Array, Task, Variables, Memory, Request], tuple[Variables, Memory]]
    needs: frozenset[str]
    serve: Callable[[Task], Task] = _serve_unchanged


# forget, retain, validation: these parts of a request. inputs, labels: their inputs and targets.
# train: the training data at `init`.
NEEDS = frozenset({"forget", "retain", "validation", "inputs", "labels", "train"})

# What a batch of an iterative method may hold; its column `part` has the place of an example's.
PARTS = ("forget", "retain", "new", "buffer", "anchor")
