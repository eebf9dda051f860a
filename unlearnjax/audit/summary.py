"""Accuracy and loss on the four sets, and the membership attack, from per-example outputs."""

from collections.abc import Mapping

import numpy as np

from unlearnjax.audit.membership import membership_inference

# What each column means: definition and unit. The ideal value of every one is the oracle's.
COLUMNS = {
    "forget_accuracy": "share of the forget set predicted right",
    "retain_accuracy": "share of the retain set predicted right",
    "val_accuracy": "share of the validation set predicted right",
    "test_accuracy": "share right of the test examples from the retain set's distribution "
    "(without classes or identities forgotten as a whole)",
    "unseen_accuracy": "share right of the test examples from the forget set's distribution",
    "mia": "balanced accuracy of a cross-validated logistic regression on the loss, forget set "
    "against unseen examples of its distribution; 0.5 is chance",
    "mia_auc": "area under the ROC curve of that attack",
}


def summarise(
    per_example: Mapping[str, Mapping[str, np.ndarray]], *, seed: int = 0
) -> dict[str, float]:
    """The numbers of one row of the report.

    Args:
      per_example: for each of 'forget', 'retain', 'val', 'test', 'unseen' (examples from the forget
        set's distribution that no model was trained on) the outputs of `training.evaluate`.
      seed: of the attack's folds.

    Returns:
      `<set>_accuracy` and `<set>_loss` (means), `mia`, `mia_auc`; NaN where a set is too small.
    """
    row = {}
    for name, outputs in per_example.items():
        for metric in ("accuracy", "loss"):
            values = np.asarray(outputs[metric])
            row[f"{name}_{metric}"] = float(values.mean()) if len(values) else float("nan")
    losses = [np.asarray(per_example[name]["loss"]) for name in ("forget", "unseen")]
    if min(map(len, losses)) < 2 or not all(np.isfinite(x).all() for x in losses):
        return {**row, "mia": float("nan"), "mia_auc": float("nan")}
    attack = membership_inference(*losses, seed=seed)
    return {**row, "mia": attack["accuracy"], "mia_auc": attack["auc"]}
