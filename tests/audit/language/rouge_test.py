"""ROUGE-L against the package that published numbers come from, and against the textbook table."""

import numpy as np
import pytest

from unlearnjax.audit import language

WORDS = (
    "the author's family moved to Kuwait in 1956 writing writes written novels novel awards "
    "celebrated Jaime-Vasquez's crime narratives Über naïve 42nd is was a"
).split()


def texts(rng, number, longest):
    return [" ".join(rng.choice(WORDS, rng.integers(longest))) for _ in range(number)]


@pytest.mark.parametrize("stemmed", [False, True])
def test_it_is_what_the_package_says(stemmed):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], stemmed)
    stem = None
    if stemmed:
        stem = pytest.importorskip("nltk.stem.porter").PorterStemmer().stem
    rng = np.random.default_rng(0)
    references, candidates = texts(rng, 40, 20), texts(rng, 40, 30)
    found = language.rouge_l(references, candidates, stem)
    for i, pair in enumerate(zip(references, candidates, strict=True)):
        expected = scorer.score(*pair)["rougeL"]
        values = [found[name][i] for name in ("recall", "precision", "f1")]
        given = [expected.recall, expected.precision, expected.fmeasure]
        np.testing.assert_allclose(values, given, rtol=1e-12)
    assert 0 < found["recall"].mean() < 1


def test_the_longest_common_subsequence_is_that_of_the_table():
    rng = np.random.default_rng(1)
    for _ in range(50):
        one, two = rng.integers(4, size=rng.integers(80)), rng.integers(4, size=rng.integers(80))
        table = np.zeros((len(one) + 1, len(two) + 1), int)
        for i, x in enumerate(one):
            for j, y in enumerate(two):
                longer = max(table[i, j + 1], table[i + 1, j])
                table[i + 1, j + 1] = table[i, j] + 1 if x == y else longer
        found = language.longest_common_subsequence(one.tolist(), two.tolist())
        assert found == table[-1, -1]


def test_texts_without_words_score_nothing():
    found = language.rouge_l(["", "a b", "!?"], ["a b", "", ""])
    for values in found.values():
        np.testing.assert_array_equal(values, [0, 0, 0])
    assert language.rouge_l([], [])["recall"].shape == (0,)


def test_short_words_are_not_stemmed():
    found = language.rouge_l(["ab abc abcd abcd"], ["xb xbc xbcd abce"], lambda word: word[1:3])
    assert found["recall"][0] == 2 / 4  # of the long ones alone


def test_as_many_answers_as_references_are_needed():
    with pytest.raises(ValueError, match="references and candidates must be as many, got 1 and 2"):
        language.rouge_l(["a"], ["a", "b"])
