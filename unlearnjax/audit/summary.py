"""Accuracy and loss on the four sets, and the membership attack, from per-example outputs."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unlearnjax.audit.distances import (
    activation_distance,
    jensen_shannon,
    zero_retrain_forgetting,
)
from unlearnjax.audit.gaps import AVG_GAP, average_gap, nomus, tug_of_war
from unlearnjax.audit.membership import membership_efficacy, membership_inference
from unlearnjax.audit.probing import COLUMNS as PROBE
from unlearnjax.audit.relearning import anamnesis_index

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
    **PROBE,
    "mia_efficacy": "share of the forget set taken for non-members by a logistic regression on the "
    "confidence, fitted to retain (member) and test examples, equally many",
    "average_gap": "mean absolute difference to the oracle's mean over forget, retain and test "
    "accuracy and mia_efficacy; an oracle's own is the spread between oracles",
    "corrective_gap": "mean absolute difference to the oracle's mean over the accuracies on unseen "
    "and test examples: for corrupted data the corrected and the clean accuracy",
    "tug_of_war": "product of 1 - |difference to the oracle's mean| over forget, retain and test "
    "accuracy",
    "activation_distance": "mean Euclidean distance of the predicted probabilities on the forget "
    "set to an oracle's, over oracles (an oracle's to the others)",
    "jensen_shannon": "mean Jensen-Shannon divergence in bits of the same",
    "nomus": "0.5 test accuracy + 0.5 (1 - 2 |mia - 0.5|)",
    "relearn_steps": "steps of fine-tuning on (a part of) the forget set until its accuracy is "
    "within a margin of the original's again; the bound of steps where it never is",
    "anamnesis": "relearn_steps by the oracles' mean; ideal 1, below it relearns too fast",
    "zrf": "1 - mean Jensen-Shannon divergence in bits to a randomly initialised model on the "
    "forget set",
}

CORRECTIVE = ("unseen_accuracy", "test_accuracy")


def summarise(
    per_example: Mapping[str, Mapping[str, np.ndarray]], *, seed: int = 0
) -> dict[str, float]:
    """The numbers of one row of the report.

    Args:
      per_example: for each of 'forget', 'retain', 'val', 'test', 'unseen' (examples from the forget
        set's distribution that no model was trained on) the outputs of `training.evaluate`.
      seed: of the attack's folds.

    Returns:
      `<set>_accuracy` and `<set>_loss` (means), `mia`, `mia_auc`, `mia_efficacy`, `nomus`; NaN
      where a set is too small.
    """
    row = {**set_means(per_example, ("accuracy", "loss")), "mia_efficacy": float("nan")}
    confidences = [np.asarray(per_example[k]["confidence"]) for k in ("retain", "test", "forget")]
    if min(map(len, confidences)) >= 2 and all(np.isfinite(x).all() for x in confidences):
        row["mia_efficacy"] = membership_efficacy(*confidences, seed=seed)
    row.update(loss_attack(per_example, seed))
    return {**row, "nomus": nomus(row["test_accuracy"], row["mia"])}


def set_means(per_example: Mapping, metrics: Sequence[str]) -> dict[str, float]:
    """`<set>_<metric>`, the mean over the examples of every set; NaN for an empty one."""
    row = {}
    for name, outputs in per_example.items():
        for metric in metrics:
            values = np.asarray(outputs[metric])
            # 300 ones have a mean of 0.85 in bfloat16.
            mean = values.mean(dtype=np.result_type(values, np.float32)) if len(values) else np.nan
            row[f"{name}_{metric}"] = float(mean)
    return row


def loss_attack(per_example: Mapping, seed: int) -> dict[str, float]:
    """`mia` and `mia_auc`: `membership_inference` on the loss; NaN where a set is too small."""
    losses = [np.asarray(per_example[name]["loss"]) for name in ("forget", "unseen")]
    if min(map(len, losses)) < 2 or not all(np.isfinite(x).all() for x in losses):
        return {"mia": float("nan"), "mia_auc": float("nan")}
    attack = membership_inference(*losses, seed=seed)
    return {"mia": attack["accuracy"], "mia_auc": attack["auc"]}


def mean_over(others: Sequence[np.ndarray], distance: Callable, own: np.ndarray) -> float:
    """Mean distance to others; NaN without any, and where one is not finite."""
    if not others or not all(np.isfinite(x).all() for x in (own, *others)):
        return float("nan")
    return float(np.mean([np.mean(distance(own, other)) for other in others]))


def anamnesis(rows: Sequence[Mapping]) -> list[dict]:
    """The rows with `anamnesis`: their `relearn_steps` by the oracles' mean."""
    steps = [row["relearn_steps"] for row in rows if row["method"] == "oracle"]
    return [
        {**row, "anamnesis": anamnesis_index(row["relearn_steps"], float(np.mean(steps)))}
        for row in rows
    ]


def against_oracles(
    rows: Sequence[Mapping], probs: Sequence[np.ndarray], incompetent_probs: np.ndarray
) -> list[dict]:
    """Rows with the columns that compare with the oracles: gaps, distances, ZRF.

    Distances are NaN where one of the models has diverged.

    Args:
      rows: one per method and seed, with the columns of `summarise` for all five sets, and
        `relearn_steps` if measured; some with method 'oracle'.
      probs: of each row, the predicted probabilities on the forget set `[N, C]`.
      incompetent_probs: of a randomly initialised model.
    """
    oracles = [i for i, row in enumerate(rows) if row["method"] == "oracle"]
    names = (*AVG_GAP, *CORRECTIVE)
    mean = {name: float(np.mean([rows[i][name] for i in oracles])) for name in names}
    result = []
    for i, row in enumerate(rows):
        others = [probs[j] for j in oracles if j != i]
        result.append(
            {
                **row,
                "average_gap": average_gap(row, mean),
                "corrective_gap": float(np.mean([abs(row[n] - mean[n]) for n in CORRECTIVE])),
                "tug_of_war": tug_of_war(row, mean),
                "activation_distance": mean_over(others, activation_distance, probs[i]),
                "jensen_shannon": mean_over(others, jensen_shannon, probs[i]),
                "zrf": mean_over([incompetent_probs], zero_retrain_forgetting, probs[i]),
            }
        )
    return anamnesis(result) if "relearn_steps" in rows[0] else result
