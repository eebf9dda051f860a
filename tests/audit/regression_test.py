import numpy as np
import pytest

from unlearnjax import audit


def outputs(rng, size, shift=0.0):
    error = rng.normal(size=size) + shift
    return {"absolute_error": np.abs(error), "loss": error**2 / 2}


def test_errors_are_means_and_the_attack_is_that_of_classification(rng):
    per_example = {n: outputs(rng, 60) for n in ("forget", "retain", "val", "test", "unseen")}
    row = audit.regression.summarise(per_example, seed=3)
    assert row["forget_error"] == pytest.approx(per_example["forget"]["absolute_error"].mean())
    assert row["test_loss"] == pytest.approx(per_example["test"]["loss"].mean())
    attack = audit.membership_inference(
        per_example["forget"]["loss"], per_example["unseen"]["loss"], seed=3
    )
    assert row["mia"] == attack["accuracy"]


def test_wasserstein_is_the_area_between_sorted_predictions(rng):
    rows = [
        {"method": m, "forget_error": e, "retain_error": 0.5, "test_error": 0.6, "relearn_steps": r}
        for m, e, r in (("oracle", 1.0, 8), ("oracle", 1.2, 12), ("blindspot", 0.8, 5))
    ]
    predictions = [rng.normal(size=40) for _ in rows]
    result = audit.regression.against_oracles(rows, predictions)

    def area(a, b):  # of equal sizes: mean distance of the order statistics
        return np.abs(np.sort(a) - np.sort(b)).mean()

    expected = np.mean([area(predictions[2], predictions[j]) for j in (0, 1)])
    assert result[2]["wasserstein"] == pytest.approx(expected)
    assert result[0]["wasserstein"] == pytest.approx(area(predictions[0], predictions[1]))
    assert result[2]["average_gap"] == pytest.approx(0.3 / 3)
    assert result[2]["anamnesis"] == pytest.approx(0.5)


def test_an_independent_oracle_is_as_near_as_oracles_are_to_one_another(rng):
    """The null test: the gap of a model drawn as the oracles are lies within their spread."""
    rows, predictions = [], []
    for method in ["oracle"] * 6 + ["null"]:
        error = 1 + 0.05 * rng.normal()
        rows.append(
            {"method": method, "forget_error": error, "retain_error": error, "test_error": error}
        )
        predictions.append(rng.normal(size=300))
    result = audit.regression.against_oracles(rows, predictions)
    oracles = [row["wasserstein"] for row in result[:6]]
    assert abs(result[6]["wasserstein"] - np.mean(oracles)) < 4 * np.std(oracles) + 0.02
    assert result[6]["average_gap"] < 0.2


def test_a_diverged_model_leaves_its_own_distance_open(rng):
    rows = [
        {"method": m, "forget_error": 1.0, "retain_error": 0.5, "test_error": 0.6}
        for m in ("oracle", "oracle", "ascent")
    ]
    predictions = [rng.normal(size=(40, 1)).astype(np.float16) for _ in rows]
    predictions[2][3] = np.inf
    result = audit.regression.against_oracles(rows, predictions)
    expected = np.abs(np.diff(np.sort([p.ravel().astype(float) for p in predictions[:2]]), axis=0))
    assert result[0]["wasserstein"] == result[1]["wasserstein"] == pytest.approx(expected.mean())
    assert np.isnan(result[2]["wasserstein"]) and "anamnesis" not in result[2]
