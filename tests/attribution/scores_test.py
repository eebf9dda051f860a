import numpy as np
import pytest
import scipy.stats

from unlearnjax import attribution


def test_the_score_is_scipys_rank_correlation_of_every_output(rng):
    predicted, actual = rng.integers(0, 9, (30, 4)), rng.normal(size=(30, 4))  # with ties
    scores = attribution.linear_datamodeling_score(predicted, actual)
    expected = [scipy.stats.spearmanr(predicted[:, k], actual[:, k])[0] for k in range(4)]
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    predicted[:, 0] = 3  # what ranks nothing is worth nothing
    assert attribution.linear_datamodeling_score(predicted, actual)[0] == 0


@pytest.mark.parametrize("shapes", [((5, 2), (4, 2)), ((5,), (5,)), ((5, 2, 1), (5, 2, 1))])
def test_other_shapes_are_named(shapes):
    with pytest.raises(ValueError, match=r"must be \[subsets, outputs\], got"):
        attribution.linear_datamodeling_score(*(np.ones(shape) for shape in shapes))


@pytest.mark.parametrize(("level", "interval"), [(0.95, (0.0, 1.0)), (0.4, (0.5, 0.5))])
def test_the_interval_is_that_of_the_mean_of_two_drawn_again(level, interval):
    """Of 0 and 1: the mean is 0, 1/2 or 1 with probabilities 1/4, 1/2 and 1/4."""
    assert attribution.score_interval([0.0, 1.0], level=level) == (0.5, *interval)


def test_draws_are_as_many_as_asked_for_and_of_the_seed(rng):
    scores = rng.normal(size=50)
    _, low, high = attribution.score_interval(scores, num_draws=1)
    assert low == high != attribution.score_interval(scores, num_draws=1, seed=1)[1]
