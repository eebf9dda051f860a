import numpy as np
import pytest

from unlearnjax.data import forget_sets

TARGETS = np.array([0, 1, 2, 1, 0, 2, 2, 1, 0, 1])
DATA = {"targets": TARGETS, "identity": np.array([5, 5, 6, 6, 7, 7, 8, 8, 9, 9])}


def test_whole_class_is_every_member_and_no_other():
    np.testing.assert_array_equal(forget_sets.whole_class(TARGETS, [1]), [1, 3, 7, 9])
    np.testing.assert_array_equal(forget_sets.whole_class(TARGETS, [0, 2]), [0, 2, 4, 5, 6, 8])


def test_part_of_class_draws_within_the_class_without_replacement(rng):
    part = forget_sets.part_of_class(rng, TARGETS, 1, 0.5)
    assert len(part) == len(set(part.tolist())) == 2
    assert (TARGETS[part] == 1).all()
    assert len(forget_sets.part_of_class(rng, TARGETS, 1, 0.01)) == 1


def test_random_fraction_is_sorted_distinct_and_reproducible():
    draws = [
        forget_sets.random_fraction(np.random.default_rng(seed), 1000, 0.1) for seed in (0, 0, 1)
    ]
    assert len(np.unique(draws[0])) == 100 and (np.diff(draws[0]) > 0).all()
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_random_count_and_extremes():
    chosen = forget_sets.random_count(np.random.default_rng(0), 100, 7)
    assert len(np.unique(chosen)) == 7 and (np.diff(chosen) > 0).all()
    data = {"targets": np.zeros(100, int)}
    selected = forget_sets.select("random:7", data, data, np.random.default_rng(0))
    np.testing.assert_array_equal(selected.forget, chosen)
    values = np.array([3.0, -1.0, 7.0, 0.0, 5.0])
    np.testing.assert_array_equal(forget_sets.extremes(values, 2), [2, 4])
    np.testing.assert_array_equal(forget_sets.extremes(values, 1, 2), [1, 2, 3])
    np.testing.assert_array_equal(forget_sets.extremes(values, 0, 1), [1])
    with pytest.raises(ValueError, match="num_high and num_low must be >= 0"):
        forget_sets.extremes(values, 4, 1)
    with pytest.raises(ValueError, match="count must lie in"):
        forget_sets.random_count(np.random.default_rng(0), 5, 5)


def test_by_field_and_explicit():
    np.testing.assert_array_equal(forget_sets.by_field(DATA["identity"], [6, 9]), [2, 3, 8, 9])
    np.testing.assert_array_equal(forget_sets.explicit([7, 2, 7], 10), [2, 7])


def test_forget_and_retain_partition_the_training_set():
    forget = np.array([2, 5])
    retain = forget_sets.complement(forget, 6)
    np.testing.assert_array_equal(np.sort(np.concatenate([forget, retain])), np.arange(6))


@pytest.mark.parametrize(
    ("spec", "forget", "unseen", "test"),
    [
        ("class:1", [1, 3, 7, 9], [1, 3, 7, 9], [0, 2, 4, 5, 6, 8]),
        ("class:0+2", [0, 2, 4, 5, 6, 8], [0, 2, 4, 5, 6, 8], [1, 3, 7, 9]),
        ("field:identity:8", [6, 7], [6, 7], [0, 1, 2, 3, 4, 5, 8, 9]),
        ("indices:9+0", [0, 9], list(range(10)), list(range(10))),
    ],
)
def test_specs_select_what_they_say(spec, forget, unseen, test, rng):
    selection = forget_sets.select(spec, DATA, DATA, rng)
    for actual, expected in zip(selection, (forget, unseen, test), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_part_and_random_specs_leave_the_class_in_the_test_set(rng):
    part = forget_sets.select("part:1:0.5", DATA, DATA, rng)
    assert len(part.forget) == 2 and len(part.test) == 10
    np.testing.assert_array_equal(part.unseen, [1, 3, 7, 9])
    assert len(forget_sets.select("random:0.3", DATA, DATA, rng).forget) == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("class:7", r"class must be one of \[0, 1, 2\], got 7"),
        ("class:x", "invalid literal"),
        ("random:0", r"count must lie in \[1, 10\), got 0"),
        ("random:0.0", r"fraction must lie in \(0, 1\), got 0.0"),
        ("random:1.5", r"fraction must lie in \(0, 1\), got 1.5"),
        ("part:1", "part:1"),
        ("field:colour:3", r"field must be one of \['identity', 'targets'\], got 'colour'"),
        ("field:identity:77", "field value must be one of"),
        ("indices:3+10", r"must lie in \[0, 10\), got 3..10"),
        ("klass:3", "forget must be one of class:3"),
        ("", "forget must be one of"),
    ],
)
def test_bad_specs_name_the_spec_and_what_is_allowed(spec, message, rng):
    with pytest.raises(ValueError, match=message):
        forget_sets.select(spec, DATA, DATA, rng)


def test_nothing_and_everything_are_refused():
    with pytest.raises(ValueError, match="forget set is empty"):
        forget_sets.complement(np.array([], int), 10)
    with pytest.raises(ValueError, match="whole training set"):
        forget_sets.complement(np.arange(10), 10)
