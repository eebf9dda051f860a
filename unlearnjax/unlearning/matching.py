"""Output matching: fine-tune towards the outputs that a retrained model has, or would have.

Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", ICLR 2025 (arXiv
2410.23232).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from unlearnjax import attribution, checks, training
from unlearnjax import data as data_lib
from unlearnjax.training import ensembles
from unlearnjax.types import Array, Data, Memory, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend, original

# (task, variables, memory, request) -> wanted outputs of the forget and of the retain set
Wanted = Callable[[Task, Variables, Memory, Request], tuple[Array, Array]]


def match_outputs(
    tx: Transform,
    wanted: Wanted,
    *,
    num_epochs: int = 5,
    batch_size: int = 64,
    retain_fraction: float = 0.5,
) -> Unlearner:
    """Fine-tunes on `|logits - wanted|^2 / 2` over the forget set and a share of the retain set.

    No gradient of any loss on labels is taken: what is wanted decides. In evaluation mode.

    Args:
      tx: optax transformation.
      wanted: gives the outputs to be matched, once per request.
      num_epochs: passes over the forget set and the retain subset, shuffled together.
      batch_size: examples per step.
      retain_fraction: share of the retain set that is used, in (0, 1].

    Returns:
      An unlearner that needs forget and retain data, no labels.

    Raises:
      ValueError: for a value out of range.
    """
    term = [(1.0, _distance_to_wanted)]
    loop = descend(
        objectives.combine(forget=term, retain=term),
        tx,
        over="union",
        num_epochs=num_epochs,
        batch_size=batch_size,
        retain_fraction=retain_fraction,
        labels=False,
    )

    def update(rng, task, variables, memory, request: Request):
        forget, retain = wanted(task, original(variables, request), memory, request)
        parts = request._replace(
            forget={**request.forget, "wanted": forget}, retain={**request.retain, "wanted": retain}
        )
        updated, _ = loop.update(rng, task, variables, (), parts)
        return updated, memory

    return loop._replace(update=update)


def oracle_matching(tx: Transform, oracle: Variables, **options) -> Unlearner:
    """Matches the outputs of a model that was retrained: the upper bound of what matching can do.

    Args:
      tx, options: of `match_outputs`.
      oracle: variables of a model trained without the forget set.

    Returns:
      An unlearner that needs forget and retain data; and the oracle, so it saves nothing.
    """

    def wanted(task, variables, memory, request: Request):
        del variables, memory
        return tuple(_logits(task, oracle, part) for part in (request.forget, request.retain))

    return match_outputs(tx, wanted, **options)


def dmm(
    tx: Transform,
    train_tx: optax.GradientTransformation,
    *,
    num_models: int = 64,
    share: float = 0.5,
    train_epochs: int = 10,
    train_batch_size: int = 64,
    num_epochs: int = 5,
    batch_size: int = 64,
    retain_fraction: float = 0.5,
) -> Unlearner:
    """Datamodel matching: like `oracle_matching`, with outputs that datamodels predict.

    `init` trains models on random subsets of the training data and regresses their logits on what
    the subsets held. A request predicts from that how the given model's own outputs would change
    without the forget set, and fine-tunes it towards them. Logits are taken less their mean over
    classes, which no prediction depends on.

    Args:
      tx, num_epochs, batch_size, retain_fraction: of `match_outputs`.
      train_tx: transformation that the subset models are trained with.
      num_models: M; more predict better.
      share: of the training data in every subset, in (0, 1).
      train_epochs, train_batch_size: of the subset models.

    Returns:
      An unlearner that needs the training data at `init`, then forget and retain data (`index` must
      be the position in the training data), no labels of theirs. Cost of `init`: M training runs
      on the share; memory: `M N (C + 1)`.

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(2, num_models=num_models)
    checks.at_least(1, train_epochs=train_epochs, train_batch_size=train_batch_size)
    checks.open_share(share=share)

    def init(rng, task, variables, data):
        n = data_lib.num_examples(data)
        mask_rng, train_rng = jax.random.split(rng)
        subsets = ensembles.random_subsets(mask_rng, num_models, n, share)
        masks = ensembles.subset_masks(subsets, n)
        outputs = ensembles.train_ensemble(
            task,
            train_tx,
            data,
            subsets,
            jax.random.split(train_rng, num_models),
            lambda model: _centred(_logits(task, model, data)).ravel(),
            num_epochs=train_epochs,
            batch_size=train_batch_size,
        )
        return variables, attribution.fit_datamodels(masks, outputs)

    def wanted(task, variables, memory, request: Request):
        change = attribution.predict_counterfactual(memory, request.forget["index"])
        change = change.reshape(memory.masks.shape[1], -1)
        return tuple(
            _logits(task, variables, part) + change[part["index"]]
            for part in (request.forget, request.retain)
        )

    matching = match_outputs(
        tx,
        wanted,
        num_epochs=num_epochs,
        batch_size=batch_size,
        retain_fraction=retain_fraction,
    )
    # Training the subset models takes the labels of the training data.
    return matching._replace(init=init, needs=matching.needs | {"train", "labels"})


def _distance_to_wanted(task, outputs, batch, teachers) -> Array:
    del task, teachers
    return jnp.sum((outputs["logits"] - batch["wanted"]) ** 2, axis=-1) / 2


def _logits(task: Task, variables: Variables, data: Data) -> Array:
    return training.outputs(task, variables, data)["logits"]


def _centred(logits: Array) -> Array:
    return logits - logits.mean(-1, keepdims=True)
