"""Ascent on the answers, with the weight of a token a function of its probability."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.types import Array, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform
from unlearnjax.unlearning.language import answers


def grad_diff(
    tx: Transform,
    *,
    retain: str | None = "nll",
    retain_weight: float = 1.0,
    per: str = "token",
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """GradDiff: ascent on the forgotten answers beside descent on the retained ones.

    Minimises `mean log p` plus the retain term. With `retain=None` it is GA, with 'kl' GA+KL.
    Nothing bounds it, as published; `gradient_ascent_plus` is bounded, `npo` stops by itself.

    TOFU's code takes means over the tokens of a batch; here `log p` is an answer's mean per token,
    and answers weigh alike. `per='sequence'` sums over the tokens: the limit of `npo` for beta 0.

    Args:
      per: 'token' or 'sequence'.
      tx, retain, retain_weight, num_steps, batch_size: see `npo`.

    Returns:
      As `npo`. Cost: no pass but those of training, unless `retain` is 'kl'.

    Raises:
      ValueError: as `npo`.

    References:
      Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", COLM 2024 (arXiv 2401.06121).
    """
    checks.one_of(per=(per, answers.PER))

    def term(task, outputs, batch, teachers):
        del task, teachers
        return answers.log_prob(outputs, batch, per)

    return answers.balanced(
        [(1.0, term)],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
    )


def wga(
    tx: Transform,
    *,
    beta: float = 1.0,
    retain: str | None = "nll",
    retain_weight: float = 1.0,
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """Weighted gradient ascent: tokens weigh `p_t^beta`, so that what is unlikely is left alone.

    Minimises the mean over an answer's tokens of `sg(p_t^beta) log p_t`, sg without gradient. The
    code takes the mean over the tokens of a batch, here answers weigh alike.

    Args:
      beta: >= 0; 0 is `grad_diff`.
      tx, retain, retain_weight, num_steps, batch_size: see `npo`.

    Returns:
      As `grad_diff`.

    Raises:
      ValueError: as `npo`.

    References:
      Wang et al., "Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond",
      ICLR 2025 (arXiv 2502.19301); code: open-unlearning.
    """
    checks.finite(beta=beta)
    checks.at_least(0, beta=beta)
    return answers.balanced(
        [(1.0, weighted(lambda log_p: jnp.exp(beta * log_p)))],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
    )


def satimp(
    tx: Transform,
    *,
    beta1: float = 5.0,
    beta2: float = 1.0,
    retain: str | None = "nll",
    retain_weight: float = 10.0,
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """SatImp: tokens weigh `p_t^beta1 (1 - p_t)^beta2`, neither what is unlikely nor what is sure.

    Saturation and importance of a token; else as `wga`. The code weighs the forget term with 0.1
    and the retain term with 1: here the ratio of the two is `retain_weight`.

    Args:
      beta1: of saturation, >= 0.
      beta2: of importance, >= 0; 0 is `wga`.
      tx, retain, retain_weight, num_steps, batch_size: see `npo`.

    Returns:
      As `grad_diff`.

    Raises:
      ValueError: as `npo`.

    References:
      Yang et al., "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning", ICML 2025
      (arXiv 2505.11953); code: open-unlearning.
    """
    checks.finite(beta1=beta1, beta2=beta2)
    checks.at_least(0, beta1=beta1, beta2=beta2)
    weight = lambda log_p: jnp.exp(beta1 * log_p) * (-jnp.expm1(log_p)) ** beta2
    return answers.balanced(
        [(1.0, weighted(weight))],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
    )


def weighted(weight: Callable[[Array], Array]) -> objectives.Term:
    """The mean over an answer's tokens of `sg(weight(log p_t)) log p_t`, sg without gradient."""

    def term(task, outputs, batch, teachers):
        del task, teachers
        log_p = outputs["log_probs"]
        spoken = answers.mask(batch, log_p.shape)
        return answers.mean(jax.lax.stop_gradient(weight(log_p)) * log_p, spoken)

    return term
