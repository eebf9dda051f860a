import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from unlearnjax import audit


def test_indistinguishable_sets_give_chance(rng):
    results = [
        audit.membership_inference(rng.normal(size=400), rng.normal(size=300), seed=s)
        for s in range(5)
    ]
    for name in ("accuracy", "auc"):
        assert abs(np.mean([r[name] for r in results]) - 0.5) < 0.03


def test_separable_sets_give_certainty_in_either_direction(rng):
    low, high = rng.normal(0, 0.1, 50), rng.normal(5, 0.1, 200)
    for forget, unseen in ((low, high), (high, low)):
        result = audit.membership_inference(forget, unseen)
        assert result == {"accuracy": 1.0, "auc": 1.0, "member_rate": 1.0}


def test_shifted_normals_reach_the_optimal_attack(rng):
    """The best threshold on N(0,1) against N(1,1) is 1/2, right with probability Phi(1/2)."""
    result = audit.membership_inference(rng.normal(0, 1, 20_000), rng.normal(1, 1, 5_000))
    assert abs(result["accuracy"] - scipy.stats.norm.cdf(0.5)) < 0.01
    assert abs(result["auc"] - scipy.stats.norm.cdf(1 / np.sqrt(2))) < 0.01
    assert abs(result["member_rate"] - scipy.stats.norm.cdf(0.5)) < 0.02


def test_imbalance_does_not_move_the_attack(rng):
    """An attacker that always says 'member' must score chance, however many members there are."""
    result = audit.membership_inference(rng.normal(size=2000), rng.normal(size=50))
    assert abs(result["accuracy"] - 0.5) < 0.1


def test_auc_of_one_score_is_the_rank_statistic(rng):
    forget, unseen = rng.exponential(1.0, 3000), rng.exponential(2.0, 3000)
    result = audit.membership_inference(forget, unseen)
    labels = np.repeat([1, 0], 3000)
    exact = roc_auc_score(labels, -np.concatenate([forget, unseen]))
    assert abs(result["auc"] - exact) < 0.01  # folds mix five attackers' scales


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="at least 2 examples of each set, got 1 forget"):
        audit.membership_inference(np.zeros(1), np.zeros(9))
    with pytest.raises(ValueError, match="finite"):
        audit.membership_inference(np.array([0.0, np.nan]), np.zeros(9))


def test_summary_rows_hold_means_and_the_attack_and_survive_small_sets(rng):
    def outputs(n):
        return {"accuracy": np.arange(n) % 2, "loss": rng.normal(size=n)}

    sets = {"forget": outputs(40), "retain": outputs(60), "unseen": outputs(30)}
    row = audit.summarise(sets)
    assert row["forget_accuracy"] == 0.5
    assert row["retain_loss"] == pytest.approx(sets["retain"]["loss"].mean())
    attack = audit.membership_inference(sets["forget"]["loss"], sets["unseen"]["loss"])
    assert (row["mia"], row["mia_auc"]) == (attack["accuracy"], attack["auc"])
    assert np.isnan(audit.summarise({**sets, "unseen": outputs(1)})["mia"])
    sets["unseen"]["loss"][0] = np.inf
    assert np.isnan(audit.summarise(sets)["mia"])
