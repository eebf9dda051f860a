import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from unlearnjax import audit
from unlearnjax.audit import links

RNG = np.random.default_rng(0)


def test_deleted_edges_are_held_against_as_many_retained_ones():
    deleted, retained = RNG.normal(size=40), RNG.normal(1, 1, 400)
    found = links.deleted_auc(deleted, retained, num_draws=300)
    assert found == pytest.approx(links.auc(retained, deleted), abs=0.01)  # its expectation
    drawn = {links.deleted_auc(deleted, retained, num_draws=1, seed=s) for s in range(3)}
    assert len(drawn) == 3 and found not in drawn
    assert links.deleted_auc(deleted, deleted + 0.0, num_draws=2) == pytest.approx(0.5)
    assert links.deleted_auc(retained, deleted) < 0.5  # more deleted than retained
    with pytest.raises(ValueError, match="num_draws must be >= 1"):
        links.deleted_auc(deleted, retained, num_draws=0)


def test_the_attacker_is_a_logistic_regression_of_the_score():
    deleted, retained, others = RNG.normal(size=9), RNG.normal(2, 1, 50), RNG.normal(-2, 2, 50)
    both = np.append(retained, others)
    scaled = lambda x: ((x - both.mean()) / both.std())[:, None]
    attacker = LogisticRegression().fit(scaled(both), np.repeat([1, 0], 50))
    expected = attacker.predict_proba(scaled(deleted))[:, 1]
    found = links.edge_membership(deleted, retained, others)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    drawn = [links.edge_membership(deleted, retained, others[:9], seed=s) for s in range(2)]
    assert (drawn[0] != drawn[1]).any()
    # Where the two do not differ there is nothing to be told.
    same = links.edge_membership(deleted, retained, retained)
    np.testing.assert_allclose(same, np.full(9, 0.5), atol=1e-6)


def test_the_ratio_is_of_one_attackers_beliefs_before_and_after():
    before, after = RNG.normal(2, 1, 9), RNG.normal(-1, 1, 9)
    retained, others = RNG.normal(2, 1, 50), RNG.normal(-2, 2, 50)
    both = np.append(retained, others)
    scaled = lambda x: ((x - both.mean()) / both.std())[:, None]
    attacker = LogisticRegression().fit(scaled(both), np.repeat([1, 0], 50))
    belief = [attacker.predict_proba(scaled(x))[:, 1] for x in (before, after)]
    expected = belief[0].mean() / belief[1].mean()
    found = links.membership_ratio(before, after, retained, others)
    assert found == pytest.approx(expected, rel=1e-3) and found > 1.5  # believed less: larger
    assert links.membership_ratio(before, before, retained, others) == 1
    with pytest.raises(ValueError, match=r"after must be of the edges of before, \[9\], got \[8\]"):
        links.membership_ratio(before, after[:8], retained, others)


def test_the_distance_of_parameters_is_summed_over_them():
    one = {"a": {"kernel": np.ones((2, 2))}, "b": np.array([1.0, -1.0, 2.0])}
    other = {"a": {"kernel": np.full((2, 2), 4.0)}, "b": np.array([1.0, 3.0, -1.0])}
    assert links.verification_error(one, other) == pytest.approx(6 + 5)
    assert links.verification_error(one, one) == 0
    assert np.isnan(links.verification_error(one, {"b": np.zeros(3)}))
    assert np.isnan(links.verification_error(one, {**one, "b": np.zeros(4)}))


def test_the_room_is_public():
    assert audit.links is links
