"""Output matching: fine-tune towards the outputs that a retrained model has, or would have.

Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", ICLR 2025 (arXiv
2410.23232).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearnjax import attribution, checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.training import ensembles
from unlearnjax.types import Array, Data, Memory, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import ids, objectives
from unlearnjax.unlearning.descend import Transform, descend
from unlearnjax.unlearning.teachers import original

# (task, variables, memory, request) -> wanted outputs of the forget and of the retain set
Wanted = Callable[[Task, Variables, Memory, Request], tuple[Array, Array]]
# (masks [M, N], logits [M, N, C]) -> an attributor
Fit = Callable[[Array, Array], attribution.Datamodels]
_BATCH = 256  # of passes without gradients; results do not depend on it


def match_outputs(
    tx: Transform,
    wanted: Wanted,
    *,
    num_epochs: int = 5,
    batch_size: int = 64,
    retain_multiplier: float = 3.0,
    weighting: str = "example",
) -> Unlearner:
    """Fine-tunes on `|logits - wanted|^2 / 2` over the forget set and a part of the retain set.

    No gradient of any loss on labels is taken: what is wanted decides. In evaluation mode, where
    the authors' code has training mode: what is wanted of an example is one answer, to which
    dropout and running statistics would only add noise. Their squares are means over classes, ours
    halves of sums; their rate falls by a twentieth each epoch, which is for `tx` to say.

    Args:
      tx: optax transformation.
      wanted: gives the outputs to be matched, once per request.
      num_epochs: passes over the forget set and the retained examples, shuffled together.
      batch_size: examples per step; in the authors' code 512.
      retain_multiplier: how many retained examples there are for one of the forget set, drawn once
        per request; at most all of them are.
      weighting: see `objectives.combine`; in the paper every example weighs alike.

    Returns:
      An unlearner that needs forget and retain data, no labels.

    Raises:
      ValueError: for a value out of range.
    """
    checks.positive(retain_multiplier=retain_multiplier)
    term = [(1.0, _distance_to_wanted)]
    loop = partial(
        descend,
        objectives.combine(forget=term, retain=term, weighting=weighting),
        tx,
        over="union",
        num_epochs=num_epochs,
        batch_size=batch_size,
        labels=False,
    )

    def update(rng, task, variables, memory, request: Request):
        task = tasks.expected(task, 1)  # what is wanted is of one draw, and so is what is matched
        forget, retain = wanted(task, original(variables, request), memory, request)
        parts = request._replace(
            forget={**request.forget, "wanted": forget}, retain={**request.retain, "wanted": retain}
        )
        gone, kept = map(data_lib.num_examples, (request.forget, request.retain))
        share = retain_multiplier * max(gone, 1) / max(kept, 1)
        matching = loop(retain_fraction=min(1.0, share))
        updated, _ = matching.update(rng, task, variables, (), parts)
        return updated, memory

    return loop()._replace(update=update)


def oracle_matching(
    tx: Transform,
    oracle: Variables,
    *,
    num_epochs: int = 5,
    batch_size: int = 64,
    retain_multiplier: float = 3.0,
    weighting: str = "example",
) -> Unlearner:
    """Matches the outputs of a model that was retrained: the upper bound of what matching can do.

    Args:
      tx, num_epochs, batch_size, retain_multiplier, weighting: of `match_outputs`.
      oracle: variables of a model trained without the forget set.

    Returns:
      An unlearner that needs forget and retain data; and the oracle, so it saves nothing.
    """

    def wanted(task, variables, memory, request: Request):
        del variables, memory
        return tuple(_logits(task, oracle, part) for part in (request.forget, request.retain))

    return match_outputs(
        tx,
        wanted,
        num_epochs=num_epochs,
        batch_size=batch_size,
        retain_multiplier=retain_multiplier,
        weighting=weighting,
    )


def dmm(
    tx: Transform,
    train_tx: optax.GradientTransformation,
    *,
    num_models: int = 64,
    share: float = 0.5,
    train_epochs: int = 10,
    train_batch_size: int = 64,
    fit: Fit = attribution.ridge_datamodels,
    num_epochs: int = 5,
    batch_size: int = 64,
    retain_multiplier: float = 3.0,
    weighting: str = "example",
) -> Unlearner:
    """Datamodel matching: like `oracle_matching`, with outputs that datamodels predict.

    `init` trains models on random subsets of the training data and regresses their logits on what
    the subsets held. A request predicts from that how the given model's own outputs would change
    without the forget set, and fine-tunes it towards them. Logits are taken less their mean over
    classes, which no prediction depends on. The memory is the attributor: any that predicts logits
    (TRAK, influence functions) can be handed to `update` in its place, with `index` the position in
    its evaluation data.

    Args:
      tx, num_epochs, batch_size, retain_multiplier, weighting: of `match_outputs`.
      train_tx: transformation that the subset models are trained with.
      num_models: M; more predict better.
      share: of the training data in every subset, in (0, 1).
      train_epochs, train_batch_size: of the subset models.
      fit: `(masks, logits) -> datamodels`; with thousands of models `attribution.lasso_datamodels`
        predicts forget sets better than ridge regression, which shrinks large effects.

    Returns:
      An unlearner that needs the training data at `init`, then forget and retain data (`index` must
      be the position in the training data), no labels of theirs. Cost of `init`: M training runs
      on the share; memory: `N^2 C`.

    Raises:
      ValueError: for a value out of range, at `init` and at the request for an `index` that is no
        position. Inside of compiled code it cannot be checked.
    """
    init = _attribute(train_tx, num_models, share, train_epochs, train_batch_size, fit)

    def wanted(task, variables, memory, request: Request):
        change = _predicted_change(memory, request.forget)
        parts = {"the forget set": request.forget, "the retain set": request.retain}
        return tuple(
            _logits(task, variables, part) + _rows(change, ids.of(part, name), name)
            for name, part in parts.items()
        )

    matching = match_outputs(
        tx,
        wanted,
        num_epochs=num_epochs,
        batch_size=batch_size,
        retain_multiplier=retain_multiplier,
        weighting=weighting,
    )
    # Training the subset models takes the labels of the training data.
    return matching._replace(init=init, needs=matching.needs | {"train", "labels"})


def dm_direct(
    train_tx: optax.GradientTransformation,
    *,
    num_models: int = 64,
    share: float = 0.5,
    train_epochs: int = 10,
    train_batch_size: int = 64,
    fit: Fit = attribution.ridge_datamodels,
) -> Unlearner:
    """DM-direct: answers with the predicted outputs themselves; a diagnostic of the attributor.

    The parameters stay as they are; the predicted change of every output is deployed beside them
    and added by `serve`. It answers only for the examples that the attributor knows: `index` is
    their position among them (after `init`, in the training data; with an attributor of your own as
    the memory, in its evaluation data); others get the outputs of the given model.

    Args: see `dmm`.

    Returns:
      An unlearner that needs the training data at `init`, then the forget set.

    Raises:
      ValueError: as `dmm`.
    """
    fit_attributor = _attribute(train_tx, num_models, share, train_epochs, train_batch_size, fit)

    def init(rng, task, variables, data):
        variables, memory = fit_attributor(rng, task, variables, data)
        # Requests add up, and `update` is to keep the structure of what is deployed.
        nothing = attribution.predict_counterfactual(memory, jnp.zeros(0, jnp.int32))
        return {**variables, "change": nothing}, memory

    def update(rng, task, variables, memory, request: Request):
        change = _predicted_change(memory, request.forget)
        return {**variables, "change": variables.get("change", 0.0) + change}, memory

    def serve(task):
        def apply(variables, batch, rng, train):
            own = {name: value for name, value in variables.items() if name != "change"}
            outputs, updated = task.apply(own, batch, rng, train)
            logits = outputs["logits"] + _rows(variables["change"], batch["index"], "a batch")
            return {**outputs, "logits": logits}, {**updated, "change": variables["change"]}

        return task._replace(apply=apply)

    return Unlearner(init, update, frozenset({"forget", "train", "inputs", "labels"}), serve)


def _attribute(train_tx, num_models, share, train_epochs, train_batch_size, fit: Fit):
    """`init` that trains models on random subsets and fits an attributor to their logits."""
    checks.at_least(2, num_models=num_models)
    checks.at_least(1, train_epochs=train_epochs, train_batch_size=train_batch_size)
    checks.open_share(share=share)

    def init(rng, task, variables, data):
        n = data_lib.num_examples(data)
        index = ids.of(data, "the training data")
        if not checks.traced(index) and (np.asarray(index) != np.arange(n)).any():
            raise ValueError(
                f"index of the training data must be its positions, 0 to {n - 1} in order, got "
                f"{index[:5].tolist()}"
            )
        tasks.num_classes(training.output_shapes(task, variables, data))
        mask_rng, train_rng = jax.random.split(rng)
        subsets = ensembles.random_subsets(mask_rng, num_models, n, share)
        outputs = ensembles.train_ensemble(
            task,
            train_tx,
            data,
            subsets,
            jax.random.split(train_rng, num_models),
            lambda model, data: training.map_batches(
                partial(attribution.logit_output, task, model), data, _BATCH
            ),
            num_epochs=train_epochs,
            batch_size=train_batch_size,
            start=training.carried(task, data, variables),
        )
        return variables, fit(ensembles.subset_masks(subsets, n), outputs)

    return init


def _predicted_change(attributor, forget: Data) -> Array:
    """`[N, C]`: how every output would change without the forget set."""
    return attribution.predict_counterfactual(attributor, ids.of(forget, "the forget set"))


def _rows(change: Array, index: Array, name: str) -> Array:
    """`change` at those positions; 0 where there is no such position."""
    if not checks.traced(index):
        given = np.asarray(index)
        outside = given[(given < 0) | (given >= len(change))]
        if outside.size:
            raise ValueError(
                f"index of {name} must be positions in the data that the attributor knows, 0 to "
                f"{len(change) - 1}, got {outside[:5].tolist()}"
            )
    place = jnp.where(index < 0, len(change), index)  # else counted from the end
    return change.at[place].get(mode="fill", fill_value=0.0)


def _distance_to_wanted(task, outputs, batch, teachers) -> Array:
    del task, teachers
    return jnp.sum((outputs["logits"] - batch["wanted"]) ** 2, axis=-1) / 2


def _logits(task: Task, variables: Variables, data: Data) -> Array:
    return training.outputs(task, variables, data)["logits"]
