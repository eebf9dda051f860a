import ml_dtypes
import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

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
    with pytest.raises(ValueError, match="^forget_scores must be .N. with at least 2 examples"):
        audit.membership_inference(np.zeros(1), np.zeros(9))
    with pytest.raises(ValueError, match="^forget_scores must be finite, got 1 of 2"):
        audit.membership_inference(np.array([0.0, np.nan]), np.zeros(9))
    with pytest.raises(ValueError, match="^unseen_scores must be .N. with at least 2 examples"):
        audit.membership_inference(np.zeros(9), np.zeros((9, 1)))
    with pytest.raises(ValueError, match="num_folds must be >= 2, got 1"):
        audit.membership_inference(np.zeros(9), np.zeros(9), num_folds=1)
    names = ("member_scores", "non_member_scores", "forget_scores")
    for i, name in enumerate(names):
        for bad, message in ((np.zeros(0), "with at least 1"), (np.array([np.inf]), "finite")):
            with pytest.raises(ValueError, match=f"^{name} must be .*{message}"):
                audit.membership_efficacy(*(bad if i == j else np.zeros(3) for j in range(3)))


def test_what_is_no_prediction_or_no_class_is_refused():
    probs = np.full((2, 3), 1 / 3)
    for targets in ([0, 3], [0, -1], [0], [[0], [1]], [0.5, 1]):
        with pytest.raises(ValueError, match="^targets must be classes 0 to 2 of 2 examples"):
            audit.attack_scores(probs, np.array(targets))
    with pytest.raises(ValueError, match="^probs must be probabilities, >= 0, got -1"):
        audit.attack_scores(probs - 4 / 3, np.array([0, 1]))
    assert audit.attack_scores(probs, [2, 0])["confidence"].shape == (2,)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_low_precision_changes_the_scores_not_the_attack(rng, dtype):
    sets = [(200 + 300 * rng.exponential(size=n)).astype(dtype) for n in (60, 40, 20)]
    wide = [x.astype(np.float64) for x in sets]
    assert audit.membership_inference(*sets[:2]) == audit.membership_inference(*wide[:2])
    assert audit.membership_efficacy(*sets) == audit.membership_efficacy(*wide)
    probs, targets = rng.dirichlet(np.ones(4), 9).astype(dtype), rng.integers(0, 4, 9)
    scores = audit.attack_scores(probs, targets)
    expected = audit.attack_scores(probs.astype(np.float64), targets)
    for name, values in scores.items():
        np.testing.assert_array_equal(values, expected[name])


def test_scores_of_what_is_impossible_are_finite():
    scores = audit.attack_scores(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    assert all(np.isfinite(x).all() for x in scores.values())
    assert scores["loss"][0] == scores["modified_entropy"][0] == scores["entropy"][0] == 0
    assert scores["loss"][1] == pytest.approx(30 * np.log(10))
    assert scores["modified_entropy"][1] == pytest.approx(60 * np.log(10))
    assert scores["correctness"].tolist() == [1, 0]


def test_every_example_is_judged_by_an_attacker_that_has_not_seen_it(rng):
    """Against the folds written out, and by as many of them as the smaller set allows."""
    forget, unseen = rng.normal(0, 1, 12), rng.normal(0.7, 2, 30)
    for num_folds, used in ((5, 5), (3, 3), (40, 12)):
        result = audit.membership_inference(forget, unseen, seed=2, num_folds=num_folds)
        scores = np.concatenate([forget, unseen])[:, None]
        member = np.repeat([1, 0], [12, 30])
        member_probability = np.zeros(42)
        folds = StratifiedKFold(used, shuffle=True, random_state=2)
        for train, test in folds.split(scores, member):
            x = (scores - scores[train].mean()) / scores[train].std()
            attacker = LogisticRegression(class_weight="balanced").fit(x[train], member[train])
            member_probability[test] = attacker.predict_proba(x[test])[:, 1]
        called = member_probability > 0.5
        assert result["member_rate"] == pytest.approx(called[:12].mean())
        expected = (called[:12].mean() + 1 - called[12:].mean()) / 2
        assert result["accuracy"] == pytest.approx(expected)
        assert result["auc"] == pytest.approx(roc_auc_score(member, member_probability))


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


def test_the_attacker_learns_from_equally_many_of_both(rng):
    """All of them where there are equally many; else as many members, drawn by the seed."""
    members, others, forget = (rng.normal(m, 1, n) for m, n in ((0, 30), (1, 30), (0.5, 200)))
    x = np.concatenate([members, others])
    known = LogisticRegression().fit(((x - x.mean()) / x.std())[:, None], np.repeat([1, 0], 30))
    taken_for_others = known.predict((forget[:, None] - x.mean()) / x.std()) == 0
    for seed in (0, 1):
        found = audit.membership_efficacy(members, others, forget, seed=seed)
        assert found == pytest.approx(taken_for_others.mean())
    drawn = {audit.membership_efficacy(members, others[:9], forget, seed=s) for s in range(4)}
    assert len(drawn) > 1


def test_efficacy_of_an_uninformative_score_is_not_decided_by_class_sizes(rng):
    """An attacker trained on ten times as many members would call everyone a member."""
    members, others = rng.normal(size=20_000), rng.normal(size=2_000)
    values = [
        audit.membership_efficacy(members, others, rng.normal(size=4000), seed=s) for s in range(9)
    ]
    assert 0.2 < np.mean(values) < 0.8


def test_the_area_is_scikit_learns_with_ties_too(rng):
    for digits in (6, 0):
        positive, negative = (rng.normal(m, 1, n).round(digits) for m, n in ((0.4, 70), (0, 110)))
        expected = roc_auc_score(np.repeat([1, 0], [70, 110]), np.append(positive, negative))
        assert audit.auc(positive, negative) == pytest.approx(expected, abs=1e-12)
    assert audit.auc(np.ones(3), np.ones(5)) == 0.5
    for name, scores in (
        ("positive", (np.array([]), np.ones(2))),
        ("negative", (np.ones(2), np.array([np.nan, 1]))),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            audit.auc(*scores)
