"""KLoM on distributions with known answers, and against plain loops."""

import warnings

import ml_dtypes
import numpy as np
import pytest
import scipy.stats

from unlearnjax import audit


def slow_klom(p, q):
    """The definition, one example after another."""
    result = []
    for a, b in zip(np.clip(p, -100, 100).T, np.clip(q, -100, 100).T, strict=True):
        both = np.concatenate([a, b])
        edges = np.linspace(both.min(), both.max() if np.ptp(both) else both.min() + 1, 21)
        shares = [np.histogram(x, edges)[0] / len(x) for x in (a, b)]
        terms = [x * np.log(x / max(y, 1e-5)) for x, y in zip(*shares, strict=True) if x > 0]
        result.append(sum(terms))
    return np.array(result)


def test_klom_is_its_definition(rng):
    p, q = rng.normal(size=(120, 7)), rng.normal(1.0, 2.0, size=(150, 7))
    p[:, 3], q[:, 3] = 2.5, 2.5
    p[:, 4] *= 1000
    np.testing.assert_allclose(audit.klom(p, q), slow_klom(p, q), atol=1e-12)
    assert audit.klom(p, q)[3] == 0


def test_klom_of_shifted_gaussians_nears_the_analytic_divergence(rng):
    p, q = rng.normal(1.0, 1.0, (20_000, 3)), rng.normal(0.0, 1.0, (20_000, 3))
    np.testing.assert_allclose(audit.klom(p, q), 0.5, atol=0.05)  # (mean difference)^2 / 2
    same = rng.normal(size=(20_000, 3))
    assert (audit.klom(same, q) < 0.01).all()


def test_klom_of_disjoint_supports_is_the_ceiling(rng):
    p, q = rng.uniform(0, 1, (100, 2)), rng.uniform(50, 51, (100, 2))
    np.testing.assert_allclose(audit.klom(p, q), np.log(1e5), atol=1e-9)


def published_klom(p, q):
    """What the benchmark's code computes: half-open bins, what is left normalised, then floored."""
    result = []
    for a, b in zip(np.clip(p, -100, 100).T, np.clip(q, -100, 100).T, strict=True):
        low, high = min(a.min(), b.min()), max(a.max(), b.max())
        edges = np.linspace(low, high if high > low else low + 1, 21)
        kept = [x[x < edges[-1]] for x in (a, b)]
        shares = [np.histogram(x, edges)[0] / max(len(x), 1) for x in kept]
        floored = [y if x == 0 else max(y, 1e-5) for x, y in zip(*shares, strict=True)]
        with np.errstate(invalid="ignore"):
            result.append(scipy.stats.entropy(shares[0], floored))
    return np.array(result)


def test_the_published_numbers_can_be_had(rng):
    p, q = rng.normal(size=(100, 9)), rng.normal(0.5, 1.5, size=(120, 9))
    q[:, 1] -= 20  # the largest margins are of p alone
    q[:, 2] += 20
    p[:60, 3] = 130.0  # saturated, in part and as a whole
    q[:, 4] = 130.0
    p[:, 5], q[:, 5] = 130.0, 101.0  # all beyond the clip: equal
    p[:, 6], q[:, 6] = np.round(p[:, 6]), np.round(q[:, 6])  # margins on the edges
    p[:, 7] = 130.0  # nobody is left
    found = audit.klom(p, q, drop_maximum=True)
    np.testing.assert_allclose(found, published_klom(p, q), rtol=1e-12, atol=1e-15)
    assert np.isnan(found).tolist() == [False] * 7 + [True, False]
    assert (found[~np.isnan(found)] >= 0).all() and found[5] == 0
    assert abs(found[1] - audit.klom(p, q)[1]) > 1e-7  # the floored shares are normalised


def test_margins_are_counted_by_the_edges_not_by_division():
    """0.09 / 0.03 is below 3, 3 * 0.03 is not below 0.09: low precision puts margins on edges."""
    grid = np.linspace(0, 0.6, 21)
    p, q = np.repeat(grid, 5)[:, None], np.repeat(grid + 1e-9, 5)[:, None]
    q = np.minimum(q, 0.6)
    np.testing.assert_allclose(audit.klom(p, q), 0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_low_precision_changes_the_margins_not_the_audit(rng, dtype):
    p, q = (3 * rng.normal(size=(150, 40)).astype(dtype) for _ in range(2))
    wide = [x.astype(np.float64) for x in (p, q)]
    np.testing.assert_array_equal(audit.klom(p, q), audit.klom(*wide))
    np.testing.assert_allclose(audit.klom(p, q), slow_klom(*wide), atol=1e-12)


def test_the_divergence_is_never_negative():
    """With 1e5 models the floored shares of the oracles add up to more than 1."""
    q = np.tile([0.0, 1.0], 50_000)[:, None]
    p = np.concatenate([q[:-1], [[0.5]]])
    assert slow_klom(p, q) < 0
    assert audit.klom(p, q) == 0 <= audit.klom(p, q, drop_maximum=True)


def test_the_noise_floor_is_what_independent_oracles_score(rng):
    oracles = rng.normal(size=(200, 50))
    floor = audit.noise_floor(oracles).mean()
    assert audit.noise_floor(oracles).shape == (50,)
    null = audit.klom(rng.normal(size=(100, 50)), rng.normal(size=(100, 50))).mean()
    assert floor == pytest.approx(null, rel=0.15)
    assert floor < 0.1 * audit.klom(rng.normal(3.0, 1.0, (100, 50)), oracles[:100]).mean()


@pytest.mark.filterwarnings("ignore:KLoM wants")
def test_few_models_are_warned_of_and_other_examples_refused(rng):
    with pytest.warns(UserWarning, match="KLoM wants 100 models on each side, got 20 and 30"):
        audit.klom(rng.normal(size=(20, 3)), rng.normal(size=(30, 3)))
    with pytest.raises(ValueError, match="of the same examples"):
        audit.klom(rng.normal(size=(20, 3)), rng.normal(size=(30, 4)))
    with pytest.raises(ValueError, match="unlearned must be finite, got 60 of 60"):
        audit.klom(np.full((20, 3), np.nan), rng.normal(size=(30, 3)))
    with pytest.raises(ValueError, match="at least 4 models of each kind are needed, got oracle 3"):
        audit.noise_floor(rng.normal(size=(3, 3)))
    with pytest.raises(ValueError, match="num_splits must be >= 1"):
        audit.noise_floor(rng.normal(size=(4, 3)), num_splits=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit.klom(rng.normal(size=(100, 3)), rng.normal(size=(100, 3)))


def test_the_noise_floor_is_the_mean_over_halves(rng):
    """Four oracles have three ways to be halved, each either way round."""
    oracles = np.array([[0.0], [0.0], [1.0], [3.0]])
    halves = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    halves += [(b, a) for a, b in halves]
    expected = np.mean([slow_klom(oracles[list(a)], oracles[list(b)]) for a, b in halves])
    floor = audit.noise_floor(oracles, num_splits=400)[0]
    assert floor == pytest.approx(expected, rel=0.05)
    assert len({audit.noise_floor(oracles, seed=s, num_splits=1)[0] for s in range(9)}) > 1
