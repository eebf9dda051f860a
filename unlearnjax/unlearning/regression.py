"""Unlearning for regression: a blindspot teacher, and targets drawn from a Gaussian.

Tarun et al., "Deep Regression Unlearning", ICML 2023 (arXiv 2210.08196).
"""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Request, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.at_layer import at_layer
from unlearnjax.unlearning.classification.relabel import random_label
from unlearnjax.unlearning.descend import Transform, descend


def blindspot(
    tx: optax.GradientTransformation,
    *,
    blind_tx: optax.GradientTransformation | None = None,
    blind_epochs: int = 2,
    feature_weight: float = 50.0,
    num_epochs: int = 1,
    batch_size: int = 64,
    weighting: str = "example",
    layer: str | None = None,
) -> Unlearner:
    """Blindspot: on the forget set like a model that has hardly been trained, and never on it.

    The teacher is a fresh model trained on the retain set for `blind_epochs`. The student minimises
    the task's loss on the retain set, and on the forget set half the squared difference to the
    teacher's prediction and `feature_weight` times the distance of attention maps
    (`attention_distance`). In training mode. The authors take the loss of the model's training on
    both sets, too: the absolute error on AgeDB, the squared error on STS-B; the half is ours. Their
    maps are those of every layer, averaged over channels; ours are one layer's, every feature by
    itself.

    Args:
      tx: optax transformation of the student; Adam 1e-3 in the authors' code.
      blind_tx: of the teacher; `None` is `tx`. Adam 1e-2 there.
      blind_epochs: passes of the teacher over the retain set: few, 2 there.
      feature_weight: of the attention maps, >= 0; 50 there, beside the absolute error.
      num_epochs: passes over both sets, shuffled together.
      batch_size: examples per step.
      weighting: see `objectives.combine`; in the authors' code every example weighs alike.
      layer: whose activations have the maps, see `at_layer`; `None` is the penultimate features.

    Returns:
      An unlearner that needs forget and retain data and labels. Cost: the passes, `blind_epochs`
      more, and a forward pass over both sets.

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(0, feature_weight=feature_weight)
    checks.at_least(1, blind_epochs=blind_epochs)

    def blind(rng, task, variables, request: Request):
        n = data_lib.num_examples(request.retain)
        state, _ = training.train(
            task,
            blind_tx or tx,
            request.retain,
            jnp.arange(n),
            rng,
            num_epochs=blind_epochs,
            batch_size=min(batch_size, n),
            start=training.carried(task, request.retain, variables),
        )
        return training.deploy(state)

    objective = objectives.combine(
        forget=[
            (1.0, objectives.output_distance("blind")),
            (feature_weight, attention_distance("blind")),
        ],
        retain=[(1.0, objectives.task_loss)],
        train=True,
        weighting=weighting,
    )
    loop = descend(
        objective,
        tx,
        over="union",
        num_epochs=num_epochs,
        batch_size=batch_size,
        teachers={"blind": blind},
    )
    return at_layer(loop, layer)


def attention_distance(teacher: str) -> objectives.Term:
    """Mean squared difference of the attention maps of the features, `f^2 / |f^2|`, to a teacher's.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017.
    """

    def attention(features):
        squared = features.astype(jnp.promote_types(features.dtype, jnp.float32)) ** 2
        # Under the root, so that features that are all zero have a gradient.
        return squared * jax.lax.rsqrt(jnp.maximum(jnp.sum(squared**2, -1, keepdims=True), 1e-24))

    def term(task, outputs, batch, teachers):
        del task, batch
        student, frozen = (tasks.features(o) for o in (outputs, teachers[teacher]))
        return jnp.mean((attention(student) - attention(frozen)) ** 2, axis=-1)

    return term


def gaussian_amnesiac(
    tx: Transform,
    *,
    num_epochs: int = 5,
    batch_size: int = 64,
    retain_weight: float = 1.0,
    weighting: str = "example",
) -> Unlearner:
    """Gaussian-Amnesiac: the forget set's targets are redrawn from a Gaussian of all targets.

    Mean and standard deviation are those of the training targets; the draw is made once per
    request. In training mode.

    Args:
      tx: optax transformation.
      num_epochs: passes over both sets, shuffled together.
      batch_size: examples per step.
      retain_weight: coefficient of the retain loss.
      weighting: see `objectives.combine`; in the paper every example weighs alike.

    Returns:
      An unlearner that needs forget and retain data and labels.
    """

    def relabel(rng, task, frozen, request: Request):
        del task, frozen
        targets = jnp.concatenate([request.forget["targets"], request.retain["targets"]])
        noise = jax.random.normal(rng, request.forget["targets"].shape, targets.dtype)
        return targets.mean() + targets.std() * noise

    return random_label(
        tx,
        num_epochs=num_epochs,
        batch_size=batch_size,
        retain_weight=retain_weight,
        weighting=weighting,
        relabel=relabel,
    )
