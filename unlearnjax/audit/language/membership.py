"""Is a text a member of the training set? Scores of attackers that see a language model.

A score is the larger, the likelier a member: `-loss`, `-loss_by_zlib`, the loss of a reference
model less the loss, `min_k` and Min-K%++, `-curvature.squared_gradient_norms`. Members are forget
answers, and non-members those of held-out authors, whom no model was trained on.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from unlearnjax.audit import inputs, membership


def zlib_bytes(texts: Sequence[str]) -> np.ndarray:
    """`[N]`: how many bytes a text takes when compressed, how surprising it is by itself."""
    return np.array([len(zlib.compress(text.encode("utf-8"))) for text in texts])


def loss_by_zlib(losses: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """`[N]`: the loss per token by the bytes of the compressed text; the *smaller*, the likelier.

    Args:
      losses: `[N]`.
      texts: the N answers.

    Raises:
      ValueError: for another number of texts, or a loss that is not finite.

    References:
      Carlini et al., "Extracting Training Data from Large Language Models", USENIX Security 2021.
    """
    (losses,) = inputs.scores(losses=losses)
    if len(texts) != len(losses):
        raise ValueError(f"texts must be one for each of {len(losses)} losses, got {len(texts)}")
    return losses / zlib_bytes(texts)


def auc(forget_scores: np.ndarray, holdout_scores: np.ndarray) -> float:
    """How often a score ranks a forgotten example above a held-out one, ties as half.

    `audit.auc` of the attack.

    Args:
      forget_scores: `[N]`, the larger, the likelier a member.
      holdout_scores: `[M]` of examples that no model was trained on, of the same distribution.

    Raises:
      ValueError: for an empty set, or a score that is not finite.

    Examples:
      >>> auc([2.0, 3.0], [1.0, 2.0])
      0.875
    """
    forget, holdout = inputs.scores(forget_scores=forget_scores, holdout_scores=holdout_scores)
    return membership.auc(forget, holdout)


def privleak(unlearned_auc: float, oracle_auc: float) -> float:
    """`100 (A_u - A_r) / A_r`, A how often an attack ranks held-out examples above forgotten ones.

    That is 1 less the `auc` of a model u and an oracle r. Value of a perfect unlearner: 0 in the
    mean of many oracles; negative where members still stand out (-100 where all do), positive where
    they became *less* likely than what was never seen. Null value: that of another oracle.

    Args:
      unlearned_auc: `auc` of the unlearned model, of Min-40% in MUSE.
      oracle_auc: of an oracle.

    Returns:
      NaN where `oracle_auc` is 1: there is nothing to compare with.

    References:
      Shi et al., "MUSE: Machine Unlearning Six-Way Evaluation for Language Models", ICLR 2025.

    Examples:
      >>> privleak(1.0, 0.5), privleak(0.5, 0.5), privleak(0.25, 0.5)
      (-100.0, 0.0, 50.0)
    """
    unlearned, oracle = 1 - float(unlearned_auc), 1 - float(oracle_auc)
    return 100 * (unlearned - oracle) / oracle if oracle else float("nan")
