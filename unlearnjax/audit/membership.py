"""Membership inference on the forget set: can an attacker tell it from data never trained on?"""

import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative, ties counted by half.

    The area under the ROC curve, of members against others, or of edges against pairs without one.
    Value of a perfect unlearner: the oracle's. Null value: 0.5, with a standard deviation of
    `sqrt((N + M + 1) / (12 N M))`.

    Args:
      positive, negative: scores `[N]`, `[M]`.

    Raises:
      ValueError: if there are none of either, or a score is not finite.

    Examples:
      >>> auc(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
      0.875
    """
    positive, negative = inputs.scores(positive=positive, negative=negative)
    ordered = np.sort(negative)
    below, upto = (np.searchsorted(ordered, positive, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(negative))


def membership_inference(
    forget_scores: np.ndarray, unseen_scores: np.ndarray, *, seed: int = 0, num_folds: int = 5
) -> dict[str, float]:
    """Attack by logistic regression on one score per example, cross-validated and balanced.

    Members are the forget set, non-members examples of the same distribution that no model was
    trained on. The scores (loss; or confidence, entropy, margin) are standardised; scikit-learn's
    `LogisticRegression` with `class_weight='balanced'` is fitted on all folds but one of a shuffled
    stratified split and applied to that fold, so that every example is judged by an attacker that
    has not seen it. The attack of Choi and Na, "Towards Machine Unlearning Benchmarks", 2023, with
    class weights instead of subsampling.

    Needs: unseen examples of the forget set's distribution, the more the better. Value of a perfect
    unlearner: the oracle's; a value above it is forgetting that failed, one below it (an attack
    that is wrong more often than by chance) is noise of small sets. Null value: 0.5, with a
    standard deviation of 0.14 for ten examples of each set and 0.04 for 122; `auc` is below it in
    small sets, whose folds have attackers of different scales: 0.46 for ten, 0.49 for 122.

    Args:
      forget_scores: `[N]` of the forget set.
      unseen_scores: `[M]` of unseen examples from the same distribution.
      seed: of the folds.
      num_folds: at least 2; capped at the size of the smaller set.

    Returns:
      `accuracy` (mean of the two classes' recalls: balanced accuracy), `auc`, and
      `member_rate` (share of the forget set called member).

    Raises:
      ValueError: if a set has fewer than 2 examples, a score is not finite or there are fewer than
        2 folds.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> losses, same = rng.exponential(size=(2, 500))
      >>> round(membership_inference(losses, same)["accuracy"], 1)
      0.5
      >>> round(membership_inference(losses / 100, same)["accuracy"], 1)  # losses of what is known
      0.9
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    checks.at_least(2, num_folds=num_folds)
    forget, unseen = inputs.scores(2, forget_scores=forget_scores, unseen_scores=unseen_scores)
    scores = np.concatenate([forget, unseen])[:, None]
    member = np.concatenate([np.ones(len(forget), int), np.zeros(len(unseen), int)])
    num_folds = min(num_folds, len(forget), len(unseen))
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    attacker = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    probability = cross_val_predict(attacker, scores, member, cv=folds, method="predict_proba")[
        :, 1
    ]
    called = (probability > 0.5).astype(int)
    return {
        "accuracy": float(balanced_accuracy_score(member, called)),
        "auc": float(roc_auc_score(member, probability)),
        "member_rate": float(called[member == 1].mean()),
    }


def attack_scores(probs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """The scores per example that attackers look at, each `[N]`.

    `correctness` (label-only), `confidence` of the true class, `entropy` of the prediction,
    `modified_entropy` (Song and Mittal, "Systematic Evaluation of Privacy Risks", 2021, equation 7)
    and `loss`, from predicted probabilities `[N, C]` and classes `[N]`.

    Raises:
      ValueError: if a probability is negative or not finite, or a target is no class.
    """
    probs = np.asarray(inputs.probabilities(probs=probs)[0], np.float64)
    targets, rows = np.asarray(targets), np.arange(len(probs))
    classes = np.arange(probs.shape[1])
    if targets.shape != rows.shape or not np.isin(targets, classes).all():
        raise ValueError(
            f"targets must be classes 0 to {classes[-1]} of {len(rows)} examples, got shape "
            f"{targets.shape}, values {np.unique(targets)}"
        )
    true = probs[rows, targets]
    tiny = 1e-30
    others = probs * np.log(np.maximum(1 - probs, tiny))
    others[rows, targets] = 0
    return {
        "correctness": (probs.argmax(1) == targets).astype(float),
        "confidence": true,
        "entropy": -(probs * np.log(np.maximum(probs, tiny))).sum(1),
        "modified_entropy": -(1 - true) * np.log(np.maximum(true, tiny)) - others.sum(1),
        "loss": -np.log(np.maximum(true, tiny)),
    }


def membership_efficacy(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    forget_scores: np.ndarray,
    *,
    seed: int = 0,
) -> float:
    """Share of the forget set that an attacker takes for non-members.

    The attacker is a logistic regression on one standardised score, fitted to a random subset of
    the retain set (members) and to test data (non-members), equally many of each.

    Needs: retain and test data. Value of a perfect unlearner: the oracle's; of data that were
    forgotten, larger than the original's. Null value: none of its own. Where members and
    non-members do not differ, the attacker has nothing to go on and may call all of the forget set
    either: any value in [0, 1].

    Args:
      member_scores: `[N]` of the retain set.
      non_member_scores: `[M]` of test data.
      forget_scores: `[F]` of the forget set.
      seed: of the subset.

    Raises:
      ValueError: if a set is empty or a score is not finite.

    References:
      Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, appendix C.3
      (MIA-Efficacy; a support vector machine there).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    members, others, forget = inputs.scores(
        member_scores=member_scores,
        non_member_scores=non_member_scores,
        forget_scores=forget_scores,
    )
    rng, size = np.random.default_rng(seed), min(len(members), len(others))
    members, others = (rng.choice(x, size, replace=False) for x in (members, others))
    attacker = make_pipeline(StandardScaler(), LogisticRegression())
    attacker.fit(np.concatenate([members, others])[:, None], np.repeat([1, 0], size))
    return float((attacker.predict(forget[:, None]) == 0).mean())
