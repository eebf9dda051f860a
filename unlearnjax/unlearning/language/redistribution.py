"""Other targets for the answer's tokens: what a model says, with the true token held down."""

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.types import Array, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform
from unlearnjax.unlearning.language import answers


def undial(
    tx: Transform,
    *,
    beta: float = 10.0,
    retain: str | None = None,
    retain_weight: float = 1.0,
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """UNDIAL: distils the original, with the logit of the true token lowered by `beta`.

    Minimises the cross-entropy to `softmax(z_0 - beta e_y)`, z_0 the original's logits, mean over
    an answer's tokens. The code averages over prompt and padding, too, where its mask strikes a
    token at random. It has no retain term by default and learns at 1e-4.

    Args:
      beta: >= 0; 0 is distillation.
      tx, retain, retain_weight, num_steps, batch_size: see `npo`.

    Returns:
      As `npo`. Cost: a pass of the original in every step, whose logits are too large to keep.

    Raises:
      ValueError: as `npo`; at the request for a task without logits.

    References:
      Dong et al., "UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large
      Language Models", NAACL 2025 (arXiv 2402.10052); code: open-unlearning.
    """
    checks.finite(beta=beta)
    checks.at_least(0, beta=beta)

    def term(task, outputs, batch, teachers):
        del task
        logits, targets, spoken = answers.token_logits(outputs, batch)
        said, _, _ = answers.token_logits(teachers["original"], batch)
        lowered = said - beta * jax.nn.one_hot(targets, said.shape[-1])
        return answers.mean(_cross_entropy(logits, lowered), spoken)

    return answers.balanced(
        [(1.0, term)],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
    )


def ce_u(
    tx: Transform,
    *,
    spare: int = 1,
    retain: str | None = None,
    retain_weight: float = 1.0,
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """CE-U: cross-entropy to the model's own distribution with the true token struck out.

    The target has no gradient; means over an answer's tokens but the first `spare`, which a
    question may well start with. The code averages over the tokens of a batch and has no retain
    term.

    Args:
      spare: how many first tokens of each answer are left alone, >= 0; a classifier's answer is one
        token, so that it must be 0 there.
      tx, retain, retain_weight, num_steps, batch_size: see `npo`.

    Returns:
      As `grad_diff`.

    Raises:
      ValueError: as `npo`; at the request for a task without logits.

    References:
      Yang, "CE-U: Cross Entropy Unlearning", 2025 (arXiv 2503.01224); code: open-unlearning.
    """
    checks.whole(spare=spare)
    checks.at_least(0, spare=spare)
    return answers.balanced(
        [(1.0, struck_out(spare))],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
    )


def struck_out(spare: int) -> objectives.Term:
    """The term of `ce_u`."""

    def term(task, outputs, batch, teachers):
        del task, teachers
        if spare and "answer" not in batch:
            raise ValueError(f"spare must be 0 where an answer is one label, got {spare}")
        logits, targets, spoken = answers.token_logits(outputs, batch)
        struck = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
        others = jnp.where(struck, -jnp.inf, jax.lax.stop_gradient(logits))
        late = spoken * (jnp.cumsum(spoken, axis=-1) > spare)
        return answers.mean(_cross_entropy(logits, others), late)

    return term


def _cross_entropy(logits: Array, target: Array) -> Array:
    """`[B, T]`, of the distributions that two arrays of logits `[B, T, V]` mean."""
    return -(jax.nn.softmax(target) * jax.nn.log_softmax(logits)).sum(-1)
