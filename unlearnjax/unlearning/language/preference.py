"""Preference without a preferred answer: NPO, its reference-free form, and DPO towards a refusal.

With `D = log p(y|x) - log p_0(y|x)`, p_0 the original's, all of them minimise the mean of
`(2 / beta) softplus(beta * margin)`.
"""

import jax

from unlearnjax import checks
from unlearnjax.types import Array, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform
from unlearnjax.unlearning.language import answers


def npo(
    tx: Transform,
    *,
    beta: float = 0.1,
    retain: str | None = "nll",
    retain_weight: float = 1.0,
    per: str = "sequence",
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """Negative preference optimisation: ascent on the forget set that switches itself off.

    Minimises `(2 / beta) mean softplus(beta D)`, whose gradient is that of `mean log p` with the
    weight `W = 2 p^beta / (p^beta + p_0^beta)` per example: 1 at the original model, for any beta,
    and near 0 once an answer has become unlikely. As beta goes to 0 it is gradient ascent. With
    `retain='nll'` it is NPO+RT, with 'kl' NPO+KL. An image classifier's answer is its label.

    As the authors' code for TOFU: sums over the answer's tokens, its end included, and AdamW 1e-5
    over 10 epochs of the forget set, 32 answers of each set per step (125 steps for 400 answers).
    There a retain answer is tied to its forget answer by a seed, so that only as many are ever
    seen; here all are, in random order. Its retain term averages over the tokens of a batch, so
    that long answers weigh more; ours averages over answers (`weight` proportional to their length
    is theirs), and its KL over prompt and padding, too; ours over the answer. MUSE's NPO compares
    the raw logits of the whole vocabulary instead of log-probabilities, and the code for WMDP takes
    a batch's mean per token for D: their betas mean something else.

    Args:
      tx: optax transformation.
      beta: inverse temperature, > 0.
      retain: 'nll', 'kl' or `None`, see `answers.balanced`.
      retain_weight: of that term, >= 0.
      per: whether D is of the whole answer ('sequence', as published) or its mean per token.
      num_steps: updates.
      batch_size: answers of each set per step.

    Returns:
      An unlearner that needs forget and, unless `retain` is `None`, retain data and labels. Cost:
      one pass of the original over the forget set, whose log-probabilities `[N, T]` are all that is
      kept of it; for 'kl' another one in every step.

    Raises:
      ValueError: for a value out of range, at the request for a task without answers.

    References:
      Zhang, Lin, Bai, Mei, "Negative Preference Optimization: From Catastrophic Collapse to
      Effective Unlearning", COLM 2024 (arXiv 2404.05868).
    """
    return answers.balanced(
        [(1.0, negative_preference(beta, per))],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
        cached=True,
    )


def simnpo(
    tx: Transform,
    *,
    beta: float = 4.5,
    gamma: float = 0.0,
    retain: str | None = "nll",
    retain_weight: float = 8.0,
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """SimNPO: `(2 / beta) mean softplus(beta (log p / L + gamma))`, L the length of the answer.

    NPO per token, with `-gamma` in the place of the original's mean log-probability: no reference
    model, and answers of all lengths weigh alike. The authors' code weighs the forget term with
    0.125 (forget10; 0.1375 and beta 2.5 for forget05) and the retain term with 1: here the ratio
    of the two is `retain_weight`, which Adam sees alone.

    Args:
      beta: > 0.
      gamma: margin, any finite number.
      tx, retain, retain_weight, num_steps, batch_size: see `npo`.

    Returns:
      As `npo`. Cost: no pass but those of training, unless `retain` is 'kl'.

    Raises:
      ValueError: as `npo`.

    References:
      Fan et al., "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM
      Unlearning", NeurIPS 2025 (arXiv 2410.07163).
    """
    return answers.balanced(
        [(1.0, simple_preference(beta, gamma))],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
    )


def dpo(
    tx: Transform,
    *,
    beta: float = 0.1,
    retain: str | None = "nll",
    retain_weight: float = 1.0,
    per: str = "sequence",
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """IdkDPO: prefers a refusal to the answer, `(2 / beta) mean softplus(beta (D - D(refusal)))`.

    The refusal is the view `refusal.*` of the forget set. As the authors' code of NPO ('dpo',
    'dpo_grad_diff', 'dpo_KL'), but for what `npo` says of the retain set. There a refusal is drawn
    whenever a question is read, by a seed that makes it the same every time; here anew in every
    step, where a question has several.

    Args:
      tx, beta, retain, retain_weight, per, num_steps, batch_size: see `npo`.

    Returns:
      As `npo`; forget data must have `refusal.inputs`, `refusal.targets` and `refusal.answer`, a
      classifier's `refusal.targets`, `[N, ...]` or, of K refusals, `[N, K, ...]` with an `index`.
      Cost: twice the passes of `npo`; that of the original over all K.

    Raises:
      ValueError: as `npo`, at the request for forget data without refusals.

    References:
      Rafailov et al., "Direct Preference Optimization", NeurIPS 2023; Maini et al., "TOFU", COLM
      2024 (arXiv 2401.06121).
    """
    return answers.balanced(
        [(1.0, refusal_preference(beta, per))],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
        cached=True,
        views=("refusal",),
    )


def idk(
    tx: Transform,
    *,
    retain: str | None = "nll",
    retain_weight: float = 1.0,
    num_steps: int = 125,
    batch_size: int = 32,
) -> Unlearner:
    """IDK: learns refusals to the forgotten questions, beside the retain term.

    Minimises the task's loss of the view `refusal.*`. TOFU's code takes one mean over the tokens of
    both kinds of answers together, so that a set weighs as much as it has tokens; here it is the
    sum of two means.

    Args:
      tx, retain, retain_weight, num_steps, batch_size: see `npo`.

    Returns:
      As `npo`; forget data must have refusals, see `dpo`, and their answers are not read.

    Raises:
      ValueError: as `dpo`.

    References:
      Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", COLM 2024 (arXiv 2401.06121).
    """
    loop = answers.balanced(
        [(1.0, objectives.task_loss)],
        tx,
        retain=retain,
        retain_weight=retain_weight,
        num_steps=num_steps,
        batch_size=batch_size,
    )

    def update(rng, task, variables, memory, request):
        answers.require_view(request.forget, "refusal")
        if answers.several(request.forget, "refusal"):
            task = answers.drawing(answers.answered(task), "refusal", instead=True)
            return loop.update(rng, task, variables, memory, request)
        refusals = objectives.viewed_batch(request.forget, "refusal")
        return loop.update(rng, task, variables, memory, request._replace(forget=refusals))

    return loop._replace(update=update)


def negative_preference(beta: float, per: str = "sequence") -> objectives.Term:
    """`(2 / beta) softplus(beta D)` of the answers, against the teacher 'original'."""
    _validate(beta, per)

    def term(task, outputs, batch, teachers):
        del task
        return _preference(beta, _gain(outputs, batch, teachers, per))

    return term


def refusal_preference(beta: float, per: str = "sequence") -> objectives.Term:
    """`(2 / beta) softplus(beta (D - D(refusal)))`, against the teacher 'original'."""
    _validate(beta, per)

    def term(task, outputs, batch, teachers):
        del task
        answer, refusal = (_gain(outputs, batch, teachers, per, v) for v in (None, "refusal"))
        return _preference(beta, answer - refusal)

    return term


def simple_preference(beta: float, gamma: float = 0.0) -> objectives.Term:
    """`(2 / beta) softplus(beta (log p / L + gamma))`, against no teacher."""
    checks.positive(beta=beta)
    checks.finite(beta=beta, gamma=gamma)

    def term(task, outputs, batch, teachers):
        del task, teachers
        return _preference(beta, answers.log_prob(outputs, batch, "token") + gamma)

    return term


def _validate(beta: float, per: str) -> None:
    checks.positive(beta=beta)
    checks.finite(beta=beta)
    checks.one_of(per=(per, answers.PER))


def _preference(beta: float, margin: Array) -> Array:
    return 2 / beta * jax.nn.softplus(beta * margin)


def _gain(outputs, batch, teachers, per: str, view: str | None = None) -> Array:
    """`[B]`: D, how much likelier an answer is than under the original."""
    own, other = (answers.log_prob(o, batch, per, view) for o in (outputs, teachers["original"]))
    return own - other
