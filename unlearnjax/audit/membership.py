"""Membership inference on the forget set: can an attacker tell it from data never trained on?"""

import numpy as np


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

    Ideal value: the oracle's. Chance is 0.5; a value above the oracle's is forgetting that failed,
    one below it (an attack that is wrong more often than by chance) is noise of small sets.

    Args:
      forget_scores: `[N]` of the forget set.
      unseen_scores: `[M]` of unseen examples from the same distribution.
      seed: of the folds.
      num_folds: capped at the size of the smaller set.

    Returns:
      `accuracy` (mean of the two classes' recalls: balanced accuracy), `auc`, and
      `member_rate` (share of the forget set called member).

    Raises:
      ValueError: if a set has fewer than 2 examples or a score is not finite.

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

    forget, unseen = np.asarray(forget_scores), np.asarray(unseen_scores)
    if min(len(forget), len(unseen)) < 2:
        raise ValueError(
            "membership inference needs at least 2 examples of each set, got "
            f"{len(forget)} forget and {len(unseen)} unseen"
        )
    scores = np.concatenate([forget, unseen]).astype(np.float64)[:, None]
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite for membership inference")
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
    and `loss`, from predicted probabilities `[N, C]`.
    """
    probs = np.asarray(probs, np.float64)
    rows = np.arange(len(targets))
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

    Ideal value: the oracle's.

    Args:
      member_scores: `[N]` of the retain set.
      non_member_scores: `[M]` of test data.
      forget_scores: `[F]` of the forget set.
      seed: of the subset.

    References:
      Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, appendix C.3
      (MIA-Efficacy; a support vector machine there).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    size = min(len(member_scores), len(non_member_scores))
    members = rng.choice(np.asarray(member_scores, float), size, replace=False)
    others = rng.choice(np.asarray(non_member_scores, float), size, replace=False)
    attacker = make_pipeline(StandardScaler(), LogisticRegression())
    attacker.fit(np.concatenate([members, others])[:, None], np.repeat([1, 0], size))
    return float((attacker.predict(np.asarray(forget_scores, float)[:, None]) == 0).mean())
