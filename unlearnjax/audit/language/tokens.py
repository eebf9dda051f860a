"""Numbers per example out of the probabilities of its answer's tokens; all may be jitted.

`answer` `[N, T]` is 1 for the tokens that count, the end of the answer among them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks, trees
from unlearnjax.types import Array

# Below it the variance of a distribution is none, as in the public code.
_LEAST_VARIANCE = 1e-6


def probability(log_probs: Array, answer: Array) -> Array:
    """`[N]`: the geometric mean of an answer's token probabilities, `exp(mean log p_t)`.

    Value of a perfect unlearner: the oracle's, 0.15 for Llama-2-7b on TOFU; NaN without an answer.

    Args:
      log_probs: `[N, T]` of the targets.
      answer: `[N, T]`.

    Examples:
      >>> probability(jnp.log(jnp.array([[0.5, 0.5, 0.1]])), jnp.array([[1, 1, 0]])).tolist()
      [0.5]
    """
    _validate(log_probs, answer=answer)
    log_probs = jnp.where(answer > 0, trees.widened(log_probs), 0)
    return jnp.exp(log_probs.sum(-1) / (answer > 0).sum(-1))


def min_k(log_probs: Array, answer: Array, share: float = 0.2) -> Array:
    """`[N]`: Min-K%, the mean of the lowest `max(1, floor(share * L))` of an answer's L values.

    The larger, the likelier a member. Of `standardised` values it is Min-K%++. NaN without an
    answer.

    Args:
      log_probs: `[N, T]` of the targets.
      answer: `[N, T]`.
      share: K, in (0, 1]; 0.2 as a rule, 0.4 in MUSE's PrivLeak.

    Raises:
      ValueError: for other shapes, or a share out of range.

    References:
      Shi et al., "Detecting Pretraining Data from Large Language Models", ICLR 2024; Zhang et al.,
      "Min-K%++", ICLR 2025.

    Examples:
      >>> min_k(jnp.array([[-1.0, -5.0, -3.0, -2.0]]), jnp.ones((1, 4)), 0.5).tolist()
      [-4.0]
    """
    checks.part(share=share)
    _validate(log_probs, answer=answer)
    length = (answer > 0).sum(-1)
    # On the host, in float64: 0.3 * 10 must be 3 in any type.
    sizes = np.floor(share * np.arange(log_probs.shape[-1] + 1) + 1e-9)
    size = jnp.asarray(np.maximum(sizes, 1))[length]
    values = jnp.sort(jnp.where(answer > 0, trees.widened(log_probs), jnp.inf), axis=-1)
    lowest = jnp.where(jnp.arange(values.shape[-1]) < size[:, None], values, 0).sum(-1) / size
    return jnp.where(length > 0, lowest, jnp.nan)


def standardised(logits: Array, targets: Array) -> Array:
    """`[N, T]`: `(log p_t - mu_t) / sigma_t`, what Min-K%++ takes the lowest of.

    mu and sigma are the mean and the standard deviation of `log p` under the model's own
    distribution of the next token. The variance is at least 1e-6, as in the public code: 0 divided
    by 0 where the model is uniform, or sure.

    Args:
      logits: `[N, T, V]`.
      targets: `[N, T]`.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits must be [N, T, V] for targets [N, T], got {list(logits.shape)} and "
            f"{list(targets.shape)}"
        )
    log_p = jax.nn.log_softmax(trees.widened(logits))
    p = jnp.exp(log_p)
    mean = jax.scipy.special.xlogy(p, p).sum(-1)
    # Not the mean of squares less the square of the mean, which would lose all digits.
    square = (log_p - mean[..., None]) ** 2
    variance = jnp.where(p > 0, p * square, 0).sum(-1)
    said = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    return (said - mean) / jnp.sqrt(jnp.maximum(variance, _LEAST_VARIANCE))


def _validate(values: Array, **others: Array) -> None:
    for name, other in others.items():
        if values.ndim != 2 or other.shape != values.shape:
            raise ValueError(
                f"values and {name} must be [N, T] alike, got {list(values.shape)} and "
                f"{list(other.shape)}"
            )
