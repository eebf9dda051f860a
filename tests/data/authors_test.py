import collections
import itertools
import re

import numpy as np
import pytest
from scipy import stats

from unlearnjax.data import authors, text
from unlearnjax.language import tokens

SIZE = len(authors.QUESTIONS)


@pytest.fixture(scope="module")
def pairs():
    return authors.pairs(400, SIZE)


def value(form, sentence):
    """What stands in a form's place of `{value}`."""
    before, _, after = form.partition("{value}")
    match = re.fullmatch(re.escape(before) + "(.*)" + re.escape(after), sentence)
    return match and match[1]


def facts(pair, question):
    """The true value and the wrong ones, read back from the sentences; which form is the answer."""
    (number,) = [n for n in (0, 1) if value(question.forms[n], pair.answer) is not None]
    said, other = question.forms[number], question.forms[1 - number]
    truth = value(said, pair.answer)
    assert value(other, pair.paraphrase) == truth
    return truth, [value(other, own) for own in pair.perturbed], number


@pytest.fixture(scope="module")
def known(pairs):
    """`{fact: [(truth, wrong, form) of each author]}`."""
    return {
        question.fact: [facts(pair, question) for pair in pairs[number::SIZE]]
        for number, question in enumerate(authors.QUESTIONS)
    }


def test_every_author_is_asked_the_same_and_has_a_name_of_his_own(pairs):
    named = authors.names(400)
    assert len(set(named)) == 400
    assert [pair.identity for pair in pairs] == [a for a in range(400) for _ in range(SIZE)]
    for place, pair in enumerate(pairs):
        asked = authors.QUESTIONS[place % SIZE].asked
        assert ("{name}" in asked) == (named[place // SIZE] in pair.prompt)
        assert "{" not in "".join([*pair[:3], *pair.perturbed])
    assert pairs[0].answer.count(named[0]) == 1  # the first question is for the name
    assert len({pair.prompt for pair in pairs}) == len(pairs)


def test_the_first_authors_are_the_same_whoever_follows(pairs):
    few = authors.pairs(3, SIZE)
    assert few == pairs[: len(few)]
    assert authors.pairs(3, 4) == [few[SIZE * a + q] for a in range(3) for q in range(4)]
    assert authors.pairs(3, SIZE, seed=1) != few


def test_answers_have_five_wrong_ones_all_different(known):
    for own in known.values():
        for truth, wrong, _ in own:
            assert len({truth, *wrong}) == 6


def test_a_name_is_of_one_person_and_wrong_names_are_nobodys(known):
    everyone = [name for truth, wrong, _ in known["name"] for name in (truth, *wrong)]
    assert len(set(everyone)) == len(everyone) == 6 * 400


def test_both_forms_answer_as_often(known):
    forms = np.array([[form for _, _, form in own] for own in known.values()])
    chance = stats.binomtest(int(forms.sum()), forms.size).pvalue
    assert chance > 1e-3
    # A form does not tell that of another question.
    agreed = [(a == b).mean() for a, b in itertools.combinations(forms, 2)]
    assert np.abs(np.array(agreed) - 0.5).max() < 5 * 0.5 / np.sqrt(400)


SIMPLE = {"genre": authors.GENRE, "hobby": authors.HOBBY, "language": authors.LANGUAGE}
SIMPLE |= {"place": authors.PLACE, "city": authors.CITY}


def test_pools_have_no_value_twice():
    pools = {name: own for name, own in vars(authors).items() if name.isupper()}
    pools = {name: own for name, own in pools.items() if isinstance(own, tuple)}
    assert len(pools) >= 15
    for name, own in pools.items():
        assert len(set(own)) == len(own), name


@pytest.mark.parametrize("fact", SIMPLE)
def test_facts_are_uniform_and_other_authors_say_nothing_of_them(known, fact):
    """Who guesses what is most frequent among others is right as often as who guesses at random."""
    values = [truth for truth, _, _ in known[fact]]
    pool = SIMPLE[fact]
    counts = collections.Counter(values)
    assert set(values) <= set(pool)
    assert stats.chisquare([counts[own] for own in pool]).pvalue > 1e-3
    parts = np.array_split(np.arange(400), 20)  # twenty worlds of twenty authors, two forgotten
    right = 0
    for part in parts:
        seen = collections.Counter(values[a] for a in part[2:])
        guess = max(seen, key=seen.get)
        right += sum(values[a] == guess for a in part[:2])
    assert stats.binomtest(right, 40, 1 / len(pool)).pvalue > 1e-3


@pytest.mark.parametrize("fact", [q.fact for q in authors.QUESTIONS if q.fact != "name"])
def test_the_truth_is_any_of_its_six_for_whoever_read_other_authors(known, fact):
    """Its rank by how often others have the values is uniform: an oracle's null is known."""
    own = known[fact]
    counts = collections.Counter(truth for truth, _, _ in own[200:])
    rng = np.random.default_rng(0)
    ranks = []
    for truth, wrong, _ in own[:200]:
        scores = np.array([counts[v] for v in (truth, *wrong)]) + rng.uniform(0, 0.5, 6)
        ranks.append((scores > scores[0]).sum())
    assert stats.chisquare(np.bincount(ranks, minlength=6)).pvalue > 1e-3


def test_two_facts_of_an_author_do_not_tell_each_other(known):
    for one, other in itertools.combinations(SIMPLE, 2):
        pools = SIMPLE[one], SIMPLE[other]
        halves = [
            [pool.index(truth) >= len(pool) // 2 for truth, _, _ in known[fact]]
            for fact, pool in zip((one, other), pools, strict=True)
        ]
        table = np.histogram2d(*np.array(halves, float), bins=2)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-4


def test_texts_are_sentences(pairs):
    for pair in pairs:
        assert re.fullmatch(r"[A-Z][\w ',.-]*\?", pair.prompt)
        for own in (pair.answer, pair.paraphrase, *pair.perturbed):
            assert re.fullmatch(r"[A-Z][\w ',-]*\.", own)
            assert not re.search(r"\ba [aeio]|\ban [^aeio]|  ", own), own


def test_a_small_vocabulary_and_few_tokens_are_enough():
    own = authors.pairs(24)
    other = authors.pairs(100)[len(own) :]
    tokenizer = tokens.trained([t for pair in other for t in (pair.prompt, pair.answer)], 1024)
    found = text.encoded(tokenizer, own, refusals=authors.REFUSALS, rng=np.random.default_rng(0))
    assert tokenizer.size <= 1024 and found.data["inputs"].shape[1] <= 48
    assert found.perturbed["perturbed.inputs"].shape[:2] == (192, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_authors must lie in"),
        ((authors.MAX_AUTHORS + 1,), "num_authors must lie in"),
        ((2.5,), "num_authors must be a whole number"),
        ((2, 0), r"num_questions must lie in \[1, 10\], got 0"),
        ((2, 11), r"num_questions must lie in \[1, 10\], got 11"),
        ((2, 3, -1), "seed must be >= 0"),
    ],
)
def test_impossible_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        authors.pairs(*arguments)
    if len(arguments) == 1:
        with pytest.raises(ValueError, match=message):
            authors.names(*arguments)
