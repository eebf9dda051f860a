"""Scores per example that forget sets can be ranked by instead of searching (`extremes`)."""

import jax
import jax.numpy as jnp

from unlearnjax.types import Array


def el2n(logits: Array, targets: Array) -> Array:
    """`[N]`: distance of the predicted probabilities from the label; high is hard.

    Args:
      logits: `[N, C]`.
      targets: `[N]` int.

    References:
      Paul et al., "Deep Learning on a Data Diet", NeurIPS 2021.
    """
    wanted = jax.nn.one_hot(targets, logits.shape[-1])
    return jnp.linalg.norm(jax.nn.softmax(logits) - wanted, axis=-1)


def prototype_distance(features: Array, targets: Array, num_classes: int) -> Array:
    """`[N]`: distance of the features to the mean of their class; low is typical of the class.

    Coresets of typical (or median) examples are chosen by it.

    Args:
      features: `[N, D]`.
      targets: `[N]` int in [0, num_classes).
      num_classes: C.

    References:
      Xia et al., "Moderate Coreset", ICLR 2023.
    """
    ones = jnp.ones(len(targets))
    sums = jax.ops.segment_sum(features, targets, num_classes)
    counts = jax.ops.segment_sum(ones, targets, num_classes)
    means = sums / jnp.maximum(counts, 1)[:, None]
    return jnp.linalg.norm(features - means[targets], axis=-1)


def memorisation(weight: Array) -> Array:
    """`[N]`: how much training on an example adds to its own margin; high is memorised.

    Args:
      weight: `[N, n_eval]` of datamodels of margins whose first N outputs are the training
        examples': `datamodels.weight[..., 0]`.

    References:
      Feldman and Zhang, "What Neural Networks Memorize and Why", NeurIPS 2020.
    """
    return jnp.diagonal(weight[:, : weight.shape[0]])
