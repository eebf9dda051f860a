"""Attackers' scores against brute force over pairs."""

import zlib

import numpy as np
import pytest

from unlearnjax.audit import language

RNG = np.random.default_rng(0)


def test_auc_counts_pairs():
    forget, holdout = RNG.integers(5, size=12), RNG.integers(4, size=9)
    pairs = [(f > h) + (f == h) / 2 for f in forget for h in holdout]
    np.testing.assert_allclose(language.auc(forget, holdout), np.mean(pairs), rtol=1e-12)


def test_privleak_is_relative_to_the_oracle_and_signed():
    """By the form of MUSE, whose areas are of held-out examples above forgotten ones."""
    found = language.privleak(0.8, 0.6)
    np.testing.assert_allclose(found, 100 * (0.2 - 0.4) / 0.4, rtol=1e-12)
    assert language.privleak(0.3, 0.6) > 0
    assert np.isnan(language.privleak(0.5, 1.0))


def test_losses_by_the_bytes_of_the_text():
    texts = ["a" * 100, "überaus lange Geschichte", ""]
    sizes = [len(zlib.compress(text.encode())) for text in texts]
    np.testing.assert_array_equal(language.zlib_bytes(texts), sizes)
    losses = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(language.loss_by_zlib(losses, texts), losses / sizes)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: language.auc([], [1.0]), "forget_scores must be"),
        (lambda: language.auc([1.0], [np.nan]), "holdout_scores must be finite"),
        (lambda: language.loss_by_zlib([1.0], ["a", "b"]), "texts must be one for each of 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
