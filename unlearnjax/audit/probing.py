"""Linear probes: does a layer still know what the classifier no longer says?"""

import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs

# Columns of the report, in the order of `linear_probe`.
COLUMNS = {
    "probe": "balanced accuracy of a cross-validated logistic regression on the penultimate (or "
    "another layer's) activations of unseen examples, the forgotten classes against the others, of "
    "more than 4096 features so many at random; 0.5 is chance",
    "probe_auc": "area under the ROC curve of that probe",
}


def linear_probe(
    forgotten: np.ndarray,
    others: np.ndarray,
    *,
    seed: int = 0,
    num_folds: int = 2,
    max_examples: int = 2000,
    max_features: int = 4096,
) -> dict[str, float]:
    """How well a linear classifier tells the forgotten class from the others in activations.

    Activations of examples that neither the model nor the probe was trained on are standardised;
    scikit-learn's `LogisticRegression` with `class_weight='balanced'` is fitted to all folds but
    one of a shuffled stratified split and judged on that one. A model whose head alone forgot has
    features in which the class stands out as before.

    Needs: unseen examples of both kinds. Value of a perfect unlearner: the oracle's, which is well
    above chance: features learned from other classes tell a new class, too. Null value: 0.5, of
    activations that say nothing; with a standard deviation of about `0.5 / sqrt(N)` for N examples
    of the smaller set.

    Cost: `num_folds` fits of at most 1000 iterations, each of two products of `[N + M, D]`, and a
    few copies of that array. Hence `max_features`: what a layer has of tens of thousands, such as
    maps of a convolution, says much the same at many places.

    Args:
      forgotten: `[N, ...]` activations of the forgotten class, flattened to `[N, D]`.
      others: `[M, ...]` of all other classes.
      seed: of the folds, and of the choice where there are too many examples.
      num_folds: at least 2 (one half is for training, the other for judging); capped at the size of
        the smaller set.
      max_examples: of each set that are used, at random, at least 2.
      max_features: of D that are used, at random by `seed`, the same whatever the examples are.

    Returns:
      `accuracy` (mean of the two classes' recalls: balanced accuracy) and `auc`, means over folds.

    Raises:
      ValueError: if a set has fewer than 2 examples or no features, an activation is not finite, or
        the sets differ in their number of features.

    References:
      Alain and Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", 2016
      (arXiv 1610.01644).

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> one, other = rng.normal(size=(2, 400, 3))
      >>> round(linear_probe(one, other)["accuracy"], 1)
      0.5
      >>> linear_probe(one + 10, other)["accuracy"]
      1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    checks.at_least(2, num_folds=num_folds, max_examples=max_examples)
    checks.at_least(1, max_features=max_features)
    sets = inputs.finite(forgotten=forgotten, others=others)
    few = any(x.ndim < 2 or len(x) < 2 or not x.size for x in sets)
    if few or len({x[0].size for x in sets}) > 1:
        raise ValueError(
            "forgotten and others must be [N, ...] with at least 2 examples and the same features, "
            f"at least 1, got {np.shape(forgotten)} and {np.shape(others)}"
        )
    sets = [_some_features(x.reshape(len(x), -1), max_features, seed) for x in sets]
    rng = np.random.default_rng(seed)
    sets = [x[np.sort(rng.permutation(len(x))[:max_examples])] for x in sets]
    labels = np.repeat([1, 0], [len(x) for x in sets])
    folds = StratifiedKFold(min(num_folds, *map(len, sets)), shuffle=True, random_state=seed)
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    scoring = {"accuracy": "balanced_accuracy", "auc": "roc_auc"}
    found = cross_validate(probe, np.concatenate(sets), labels, cv=folds, scoring=scoring)
    return {name: float(found[f"test_{name}"].mean()) for name in scoring}


def _some_features(x: np.ndarray, number: int, seed: int) -> np.ndarray:
    """`[N, D]` with at most so many columns; the order stays."""
    if x.shape[1] <= number:
        return x
    return x[:, np.sort(np.random.default_rng(seed).permutation(x.shape[1])[:number])]
