"""Numbers per example against brute force over its tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from unlearnjax.audit import language

RNG = np.random.default_rng(0)
LENGTHS = np.array([1, 2, 3, 7, 12, 5, 10, 11])
ANSWER = (np.arange(14) >= 2) & (np.arange(14) < 2 + LENGTHS[:, None])
LOG_PROBS = np.log(RNG.uniform(size=ANSWER.shape))


probability = jax.jit(language.probability)
min_k = jax.jit(language.min_k, static_argnums=2)
standardised = jax.jit(language.standardised)


def answers(values):
    """Those of the answers' tokens, row by row."""
    return [row[spoken] for row, spoken in zip(values, ANSWER, strict=True)]


def test_probability_is_the_geometric_mean_over_the_answer():
    found = probability(LOG_PROBS, ANSWER)
    expected = [np.prod(np.exp(x)) ** (1 / len(x)) for x in answers(LOG_PROBS)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_masked_may_be_impossible():
    log_probs = np.where(ANSWER, LOG_PROBS, -np.inf)
    for function in (probability, min_k):
        expected = function(LOG_PROBS, ANSWER)
        np.testing.assert_array_equal(function(log_probs, ANSWER), expected)


@pytest.mark.parametrize("share", [0.2, 0.3, 0.4, 0.5, 1.0])
def test_min_k_is_the_mean_of_the_lowest_by_sorting(share):
    def lowest(values):
        size = max(1, int(np.floor(round(share * len(values), 9))))
        return np.mean(sorted(values)[:size])

    found = min_k(LOG_PROBS, ANSWER, share)
    np.testing.assert_allclose(found, [lowest(x) for x in answers(LOG_PROBS)], rtol=1e-5)


def test_a_share_is_of_the_number_that_it_looks_like():
    """0.29 * 100 is below 29 in float64."""
    values = -np.arange(100.0)[None]
    found = float(min_k(values, np.ones((1, 100)), 0.29)[0])
    assert found == -np.arange(71, 100).mean()


def test_default_share_and_answers_of_nothing():
    np.testing.assert_array_equal(min_k(LOG_PROBS, ANSWER), min_k(LOG_PROBS, ANSWER, 0.2))
    nothing = np.zeros_like(ANSWER)
    assert np.isnan(min_k(LOG_PROBS, nothing)).all()
    assert np.isnan(probability(LOG_PROBS, nothing)).all()


def test_standardised_log_probabilities_have_mean_0_and_variance_1_under_the_model():
    logits = 3 * RNG.normal(size=(2, 4, 9))
    every = np.stack([standardised(logits, np.full((2, 4), token)) for token in range(9)], -1)
    p = scipy.special.softmax(logits, axis=-1)
    np.testing.assert_allclose((p * every).sum(-1), 0, atol=1e-5)
    np.testing.assert_allclose((p * every**2).sum(-1), 1, rtol=1e-5)
    log_p = scipy.special.log_softmax(logits, axis=-1)
    slope = np.diff(every[0, 0]) / np.diff(log_p[0, 0])
    np.testing.assert_allclose(slope, slope[0], rtol=1e-3)
    assert slope[0] > 0


def test_certain_and_uniform_and_impossible_tokens_have_finite_scores():
    logits = np.array([[[0.0, 0, 0], [100, 0, 0], [1, 1, -np.inf], [50, 0, 0]]])
    found = standardised(logits, np.array([[0, 0, 1, 1]]))
    # The last is a surprise of a model that is all but sure: by the least deviation, 0.001.
    np.testing.assert_allclose(found, [[0, 0, 0, -50 / 1e-3]], rtol=1e-4, atol=1e-3)


def test_short_floats_are_widened_and_short_masks_counted():
    low, one = jnp.full((1, 301), -1.0, jnp.bfloat16), jnp.ones((1, 301), jnp.bfloat16)
    np.testing.assert_allclose(probability(low, one), np.exp(-1), rtol=1e-6)
    assert min_k(low, one, 1.0).tolist() == [-1.0]
    logits = jax.ShapeDtypeStruct((1, 2, 3), jnp.bfloat16)
    targets = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    assert jax.eval_shape(language.standardised, logits, targets).dtype == jnp.float32


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: language.min_k(LOG_PROBS, ANSWER, 0.0), r"share must lie in \(0, 1\]"),
        (lambda: language.min_k(LOG_PROBS, ANSWER[:, 1:]), r"must be \[N, T\] alike"),
        (lambda: language.probability(LOG_PROBS[0], ANSWER[0]), r"must be \[N, T\] alike"),
        (
            lambda: language.standardised(np.zeros((2, 3, 4)), np.zeros((2, 4), int)),
            r"logits must be \[N, T, V\]",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
