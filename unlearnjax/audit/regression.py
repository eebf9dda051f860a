"""The audits of regression: errors instead of accuracies, distributions of predictions."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearnjax.audit.summary import anamnesis, loss_attack, mean_over, set_means

GAP = ("forget_error", "retain_error", "test_error")
COLUMNS = {
    "forget_error": "mean absolute error on the forget set, in standard deviations of the targets",
    "retain_error": "the same on the retain set",
    "val_error": "the same on the validation set",
    "test_error": "the same on the test examples from the retain set's distribution",
    "unseen_error": "the same on the test examples from the forget set's distribution",
    "wasserstein": "Wasserstein-1 distance between the model's and an oracle's distribution of "
    "predictions on the forget set, mean over oracles (an oracle's to the others)",
    "mia": "balanced accuracy of a cross-validated logistic regression on the loss, forget set "
    "against unseen examples of its distribution; 0.5 is chance",
    "mia_auc": "area under the ROC curve of that attack",
    "average_gap": "mean absolute difference to the oracle's mean over forget, retain and test "
    "error; an oracle's own is the spread between oracles",
    "relearn_steps": "steps of fine-tuning on (a part of) the forget set until its loss is back "
    "within a margin of the original's; the bound of steps where it never is",
    "anamnesis": "relearn_steps by the oracles' mean; ideal 1, below it relearns too fast",
}


def summarise(
    per_example: Mapping[str, Mapping[str, np.ndarray]], *, seed: int = 0
) -> dict[str, float]:
    """The numbers of one row: `<set>_error`, `<set>_loss`, `mia`, `mia_auc`.

    Args and NaN as in `audit.summarise`, for outputs of a regression task.
    """
    row = set_means(per_example, ("absolute_error", "loss"))
    row = {name.replace("absolute_error", "error"): value for name, value in row.items()}
    return {**row, **loss_attack(per_example, seed)}


def average_gap(row: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Mean absolute difference to the oracle over forget, retain and test error; see `COLUMNS`."""
    return float(np.mean([abs(row[name] - oracle[name]) for name in GAP]))


def against_oracles(rows: Sequence[Mapping], predictions: Sequence[np.ndarray]) -> list[dict]:
    """Rows with the columns that compare with the oracles: `average_gap`, `wasserstein`.

    Needs: several oracles. Larger is worse. Value of a perfect unlearner, and null value: that of
    an oracle against the others. `wasserstein` is NaN where one of the models has diverged.

    Args:
      rows: one per method and seed; some with method 'oracle'.
      predictions: of each row, on the forget set `[N]`.

    References:
      Tarun et al., "Deep Regression Unlearning", ICML 2023.
    """
    from scipy.stats import wasserstein_distance

    predictions = [np.ravel(np.asarray(x, np.float64)) for x in predictions]
    oracles = [i for i, row in enumerate(rows) if row["method"] == "oracle"]
    mean = {name: np.mean([rows[i][name] for i in oracles]) for name in GAP}
    result = []
    for i, row in enumerate(rows):
        others = [predictions[j] for j in oracles if j != i]
        distance = mean_over(others, wasserstein_distance, predictions[i])
        gap = average_gap(row, mean)
        result.append({**row, "average_gap": gap, "wasserstein": distance})
    return anamnesis(result) if "relearn_steps" in rows[0] else result
