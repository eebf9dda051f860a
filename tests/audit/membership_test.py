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


def test_attack_scores_by_hand():
    probs, targets = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]), np.array([0, 1])
    scores = audit.attack_scores(probs, targets)
    np.testing.assert_array_equal(scores["correctness"], [1, 0])
    np.testing.assert_allclose(scores["confidence"], [0.7, 0.3])
    np.testing.assert_allclose(scores["loss"], -np.log([0.7, 0.3]))
    np.testing.assert_allclose(scores["entropy"], scipy.stats.entropy(probs, axis=1))
    first = -0.3 * np.log(0.7) - 0.2 * np.log(0.8) - 0.1 * np.log(0.9)
    assert scores["modified_entropy"][0] == pytest.approx(first)


def test_efficacy_is_the_share_on_the_non_members_side(rng):
    members, others = rng.normal(0, 0.1, 3000), rng.normal(4, 0.1, 200)
    assert audit.membership_efficacy(members, others, np.zeros(10)) == 0
    assert audit.membership_efficacy(members, others, np.full(10, 4.0)) == 1
    mixed = np.repeat([0.0, 4.0], [30, 10])
    assert audit.membership_efficacy(members, others, mixed) == 0.25


def test_efficacy_of_an_uninformative_score_is_not_decided_by_class_sizes(rng):
    """An attacker trained on ten times as many members would call everyone a member."""
    members, others = rng.normal(size=20_000), rng.normal(size=2_000)
    values = [
        audit.membership_efficacy(members, others, rng.normal(size=4000), seed=s) for s in range(9)
    ]
    assert 0.2 < np.mean(values) < 0.8
