"""Contrastive learning: images and their captions are to be found by one another.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021;
Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (several positives, equation 2).
"""

import jax
import jax.numpy as jnp

from unlearnjax.tasks.adapters import Model, columns
from unlearnjax.types import Array, Batch, Outputs, Task


def contrastive(model: Model) -> Task:
    """A Task whose loss is the symmetric InfoNCE of images and captions.

    Columns: `inputs` `[B, ...]` and `condition` `[B, L]`, the captions' tokens.

    Loss: of an example the mean of two cross-entropies, of its image among the batch's captions and
    of its caption among the batch's images. All pairs with an equal caption are positive, since
    batches hold many: the logarithms of their shares are averaged. So it is never below the mean
    of the logarithms of their numbers. As contrastive losses do, it depends on the batch: on its
    size, and on who is in it. What is padded (`weight` 0) is nobody's.

    Metrics: `retrieval`, whether the caption nearest to the image, of those in the batch, is its
    own; `alignment`, the cosine of image and caption. It says of no prediction how far it is from
    another's.

    Args:
      model: of the columns 'inputs' and 'condition', with outputs 'image' and 'text' `[B, E]`, unit
        vectors, and 'scale' `[B]`: `from_linen(models.CLIP(...), ("inputs", "condition"))`.
    """

    def loss(outputs: Outputs, batch: Batch) -> Array:
        similarities, same, present = _pairs(outputs, batch)
        return (
            _cross_entropy(similarities, same, present)
            + _cross_entropy(similarities.T, same, present)
        ) / 2

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        similarities, same, present = _pairs(outputs, batch)
        nearest = _among(similarities, present).argmax(axis=1)
        found = jnp.take_along_axis(same, nearest[:, None], axis=1)[:, 0]
        cosine = jnp.sum(outputs["image"] * outputs["text"], axis=-1)
        return {"retrieval": found.astype(jnp.float32), "alignment": cosine}

    return Task(model.init, model.apply, loss, metrics)


def _pairs(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Array]:
    """Logits of images and captions `[B, B]`, which captions are equal, and who is there `[B]`."""
    image, text, scale = columns(outputs, ("image", "text", "scale"))
    (condition,) = columns(batch, ("condition",))
    same = (condition[:, None] == condition[None]).all(axis=-1)
    present = batch["weight"] > 0 if "weight" in batch else jnp.ones(len(image), bool)
    return scale[:, None] * (image @ text.T), same, present


def _among(similarities: Array, present: Array) -> Array:
    # A finite number, so that of nobody at all it is not 0 / 0.
    return jnp.where(present, similarities, jnp.finfo(similarities.dtype).min)


def _cross_entropy(similarities: Array, same: Array, present: Array) -> Array:
    """`[B]`, of each row's positives among the columns."""
    log_shares = jax.nn.log_softmax(_among(similarities, present), axis=1)
    positive = same & present
    total = jnp.where(positive, log_shares, 0).sum(axis=1)
    return -total / jnp.maximum(positive.sum(axis=1), 1)
