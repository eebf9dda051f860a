import itertools

import numpy as np
import pytest
import scipy.linalg
from sklearn.neighbors import NearestNeighbors

from unlearnjax.audit import generation


def by_brute_force(probs, condition, forgotten):
    """Sample by sample."""
    erased, kept = [], []
    for row, drawn_for in zip(probs, condition, strict=True):
        said = max(range(len(row)), key=lambda c: row[c])
        if drawn_for in forgotten:
            entropy = -sum(p * np.log(p) for p in row if p > 0)
            erased.append((said not in forgotten, entropy, sum(row[c] for c in forgotten)))
        else:
            kept.append(said == drawn_for)
    unlearned, entropy, share = np.mean(erased, axis=0) if erased else [np.nan] * 3
    return {
        "unlearning_accuracy": unlearned,
        "retained_accuracy": np.mean(kept) if kept else np.nan,
        "entropy": entropy,
        "p_forgotten": share,
    }


@pytest.mark.parametrize("forgotten", [(2,), (0, 3), (), (0, 1, 2, 3)])
def test_judged_is_what_one_counts_by_hand(forgotten):
    rng = np.random.default_rng(0)
    probs, condition = rng.dirichlet(0.3 * np.ones(4), 200), rng.integers(4, size=200)
    probs[0] = [0, 1, 0, 0]  # an entropy of 0, not NaN
    found = generation.judged(probs, condition, forgotten)
    expected = by_brute_force(probs.tolist(), condition.tolist(), forgotten)
    assert found == pytest.approx(expected, nan_ok=True)


def test_judged_tells_a_class_replaced_from_one_that_became_noise():
    sure, unsure = np.eye(3)[[1, 1]], np.full((2, 3), 1 / 3)
    replaced, noise = (generation.judged(p, np.zeros(2, int), (0,)) for p in (sure, unsure))
    assert replaced["entropy"] == 0 and noise["entropy"] == pytest.approx(np.log(3))
    assert replaced["p_forgotten"] == 0 and noise["p_forgotten"] == pytest.approx(1 / 3)
    kept = generation.judged(np.eye(3), np.arange(3), (0,))
    assert kept["unlearning_accuracy"] == 0 and kept["retained_accuracy"] == 1


def test_shares_and_their_total_variation():
    probs = np.eye(4)[[0, 0, 2, 2, 2]]
    shares = generation.class_shares(probs)
    np.testing.assert_allclose(shares, [0.4, 0, 0.6, 0])
    # By definition: the largest difference that the two give to any event.
    other = np.array([0.1, 0.3, 0.2, 0.4])
    events = itertools.product([0.0, 1.0], repeat=4)
    largest = max(abs(np.dot(event, shares - other)) for event in events)
    assert generation.total_variation(shares, other) == pytest.approx(largest)
    assert generation.total_variation(shares, shares) == 0
    assert generation.total_variation([1, 0], [0, 1]) == 1


def gaussians(seed, size, dimension):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, dimension)) @ rng.normal(
        size=(dimension, dimension)
    ) + rng.normal(size=dimension)


@pytest.mark.parametrize("size", [40, 5])  # with 5 both covariances are singular
def test_frechet_distance_is_that_of_the_matrix_square_root(size):
    one, other = gaussians(0, size, 7), gaussians(1, size + 3, 7)
    first, second = np.cov(one.T), np.cov(other.T)
    root = scipy.linalg.sqrtm(first @ second + 1e-14 * np.eye(7)).real
    expected = np.sum((one.mean(0) - other.mean(0)) ** 2) + np.trace(first + second - 2 * root)
    found = generation.frechet_distance(one, other)
    assert found == pytest.approx(expected, rel=1e-5)
    assert generation.frechet_distance(other, one) == pytest.approx(found, rel=1e-6)


def test_frechet_distance_of_two_gaussians_has_a_closed_form():
    """Of independent features `|m1 - m2|^2 + sum (s1 - s2)^2`; signs make these moments exact."""
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    signs /= np.sqrt(8 / 7)  # unbiased variance 1
    one, other = signs * [1, 2, 3], signs * [4, 0.5, 0] + [1, -1, 2]
    expected = (1 + 1 + 4) + (3**2 + 1.5**2 + 3**2)
    assert generation.frechet_distance(one, other) == pytest.approx(expected, abs=1e-9)
    assert generation.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    turned = scipy.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert generation.frechet_distance(one @ turned, other @ turned) == pytest.approx(expected)
    # One feature, in half precision whose squares are infinite there.
    pair = np.array([[300.0], [500.0]], np.float16)
    assert generation.frechet_distance(pair, pair + np.float16(100)) == pytest.approx(1e4)


def test_kernel_distance_is_the_mean_over_pairs_of_different_samples():
    x, y = gaussians(0, 6, 3), gaussians(1, 5, 3)
    kernel = lambda a, b: (sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3
    own = [kernel(a, b) for a, b in itertools.permutations(x, 2)]
    others = [kernel(a, b) for a, b in itertools.permutations(y, 2)]
    across = [kernel(a, b) for a in x for b in y]
    expected = np.mean(own) + np.mean(others) - 2 * np.mean(across)
    assert generation.kernel_distance(x, y) == pytest.approx(expected)


def test_kernel_distance_is_zero_in_the_mean_of_equal_distributions():
    """However few samples there are, where the Frechet distance is far above zero."""
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(400, 2, 8, 4))
    found = np.array([generation.kernel_distance(*pair) for pair in pairs])
    assert abs(found.mean()) < 4 * found.std() / 20 and (found < 0).any()
    assert np.mean([generation.frechet_distance(*pair) for pair in pairs]) > 1


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_nearest_neighbours(k):
    real, generated = gaussians(0, 40, 3), 0.7 * gaussians(0, 30, 3) + 0.5

    def share(inside, of):
        """Of the members of `inside` that lie in a ball of `of`."""
        # The nearest of k + 1 is the member itself.
        radius = NearestNeighbors(n_neighbors=k + 1).fit(of).kneighbors(of)[0][:, -1]
        covered = [
            any(np.linalg.norm(x - c) <= r for c, r in zip(of, radius, strict=True)) for x in inside
        ]
        return np.mean(covered)

    found = generation.precision_recall(real, generated, num_neighbours=k)
    expected = {"precision": share(generated, real), "recall": share(real, generated)}
    assert found == pytest.approx(expected)
    assert 0 < min(found.values()) and found["precision"] != found["recall"]
    if k == 3:
        assert generation.precision_recall(real, generated) == found


def test_balls_are_closed():
    """The second real sample and the first generated one are as far apart as both neighbours."""
    real, generated = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    found = generation.precision_recall(real, generated, num_neighbours=1)
    assert found == {"precision": 0.5, "recall": 0.5}


def test_one_sample_again_and_again_is_precise_and_recalls_nothing():
    real = gaussians(0, 50, 2)
    found = generation.precision_recall(real, np.repeat(real[:1], 50, axis=0))
    assert found["precision"] == 1 and found["recall"] == pytest.approx(1 / 50)


TWO = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generation.class_shares(np.ones((0, 3))), r"probs must be \[N, C\]"),
        (lambda: generation.judged(np.eye(3), np.arange(2)), r"got shape \(2,\)"),
        (lambda: generation.judged(np.eye(3), np.arange(3) + 1), "classes 0 to 2"),
        (lambda: generation.judged(np.eye(3), np.arange(3), (3,)), r"\(3,\)"),
        (lambda: generation.judged(-np.eye(3), np.arange(3)), "probs must be probabilities"),
        (lambda: generation.total_variation([0.5, 0.5], [1.0]), r"\(2,\) and \(1,\)"),
        (lambda: generation.total_variation([0.5, 0.4], [1, 0]), "shares must be >= 0 and sum"),
        (lambda: generation.total_variation([1, 0], [1.5, -0.5]), "other must be >= 0 and sum"),
        (lambda: generation.total_variation([], []), r"must be \[C\]"),
        (lambda: generation.frechet_distance(TWO[:1], TWO), r"N >= 2, got \(1, 2\) and \(4, 2\)"),
        (lambda: generation.frechet_distance(TWO, TWO[:, :1]), "with the same features"),
        (lambda: generation.frechet_distance(TWO[0], TWO), r"must be \[N, D\]"),
        (lambda: generation.kernel_distance(TWO, np.nan * TWO), "other must be finite"),
        (lambda: generation.kernel_distance(TWO, TWO[:1]), "N >= 2"),
        (lambda: generation.precision_recall(TWO, TWO[:3]), "N >= 4"),
        (lambda: generation.precision_recall(TWO, TWO, num_neighbours=0), "num_neighbours must"),
        (lambda: generation.precision_recall(TWO, TWO, num_neighbours=1.5), "a whole number"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
