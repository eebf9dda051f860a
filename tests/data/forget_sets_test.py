import re

import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax.data import forget_sets

TARGETS = np.array([0, 1, 2, 1, 0, 2, 2, 1, 0, 1])
DATA = {"targets": TARGETS, "identity": np.array([5, 5, 6, 6, 7, 7, 8, 8, 9, 9])}


def test_whole_class_is_every_member_and_no_other():
    np.testing.assert_array_equal(forget_sets.whole_class(TARGETS, [1]), [1, 3, 7, 9])
    np.testing.assert_array_equal(forget_sets.whole_class(TARGETS, [0, 2]), [0, 2, 4, 5, 6, 8])


def test_part_of_class_draws_within_the_class_without_replacement(rng):
    targets = np.tile(TARGETS, 10)
    part = forget_sets.part_of_class(rng, targets, 1, 0.9)
    assert len(part) == len(set(part.tolist())) == 36
    assert (targets[part] == 1).all()
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
    assert len(np.unique(forget_sets.random_count(np.random.default_rng(0), 100, 99))) == 99
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
    np.testing.assert_array_equal(
        forget_sets.by_field(np.array([0.1, 0.2], np.float32), [0.2]), [1]
    )
    np.testing.assert_array_equal(forget_sets.by_field(np.array([True, False]), [False]), [1])
    np.testing.assert_array_equal(forget_sets.by_field(np.array(["ann", "anna"]), ["ann"]), [0])
    np.testing.assert_array_equal(forget_sets.by_field(np.array([1, 2]), []), [])
    with pytest.raises(ValueError, match=r"one of \[1, 2\], got '1.5'"):
        forget_sets.by_field(np.array([1, 2]), [2, 1.5])


@pytest.mark.parametrize("make", [list, tuple, set, np.array, jnp.array, iter])
def test_explicit_positions_are_ascending_and_count_once(make):
    np.testing.assert_array_equal(forget_sets.explicit(make([7, 2]), 10), [2, 7])
    np.testing.assert_array_equal(forget_sets.explicit([7, 2, 7, 0, 9], 10), [0, 2, 7, 9])
    assert forget_sets.explicit([], 10).dtype == np.int64


@pytest.mark.parametrize(
    ("indices", "got"),
    [
        ([3, 10], "got 10$"),
        ([-1, 3, 12], "got -1, 12$"),
        ([10**30], f"got {10**30}$"),
        ([1.0, 2.5], "got 1.0, 2.5$"),
        (np.arange(10) % 2 == 0, r"got True, False, True, False, True, ... \(10 in all\)$"),
    ],
    ids=str,
)
def test_what_is_no_position_is_named(indices, got):
    for use in (forget_sets.explicit, forget_sets.complement):
        with pytest.raises(ValueError, match=rf"must be integers and lie in \[0, 10\), {got}"):
            use(indices, 10)


def test_classes_are_matched_as_they_are():
    with pytest.raises(ValueError, match=r"class must be one of \[0, 1, 2\], got 1.7"):
        forget_sets.whole_class(TARGETS, [1.7])
    np.testing.assert_array_equal(
        forget_sets.whole_class(TARGETS.astype(np.uint8), [1]), [1, 3, 7, 9]
    )
    with pytest.raises(ValueError, match="need class numbers as targets, got float64"):
        forget_sets.whole_class(TARGETS / 1, [1])


def test_nan_is_neither_high_nor_low_nor_in_a_band(rng):
    values = np.array([3.0, np.nan, 1.0, 2.0])
    with pytest.raises(ValueError, match="got NaN in row 1$"):
        forget_sets.extremes(values, 1)
    np.testing.assert_array_equal(forget_sets.in_band(values, 0, np.inf), [0, 2, 3])
    for low, high in ((np.nan, 2), (0, np.nan)):
        with pytest.raises(ValueError, match="low < high, got"):
            forget_sets.in_band(values, low, high)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bounds_of_a_band_are_not_rounded_to_the_values(dtype):
    values = np.array([0.1, 0.2, 0.3], dtype)
    np.testing.assert_array_equal(forget_sets.in_band(values, 0.1, 0.2), [0, 1])
    np.testing.assert_array_equal(forget_sets.in_band(values, 0.100001, 0.299999), [1])


def test_a_field_of_any_type_selects_what_is_written(rng):
    train = {
        "targets": np.arange(6) % 3,
        "adult": np.array([True, False, True, True, False, True]),
        "name": np.array(["ann", "anna", "bob", "ann", "c:d", "e+f"]),
        "code": np.array([b"x", b"xy", b"x", b"z", b"z", b"z"]),
        "small": np.array([1, 2, 3, 200, 5, 6], np.uint8),
        "share": np.array([0.1, 0.2, 0.1, np.nan, 0.5, 0.5], np.float32),
        "thing": np.array([None, "ann", 3, 3, 0.5, b"x"], object),
    }
    held_out = {name: value[[1, 3, 5]] for name, value in train.items()}
    for spec, forget, unseen in (
        ("adult:False", [1, 4], [0]),
        ("name:ann", [0, 3], [1]),
        ("name:anna", [1], [0]),
        ("name:c:d+e+f", [4, 5], [2]),
        ("code:x", [0, 2], []),
        ("small:200", [3], [1]),
        ("share:0.1+nan", [0, 2, 3], [1]),
        ("thing:3+None", [0, 2, 3], [1]),
    ):
        selection = forget_sets.select(f"field:{spec}", train, held_out, rng)
        np.testing.assert_array_equal(selection.forget, forget)
        np.testing.assert_array_equal(selection.unseen, unseen)
        np.testing.assert_array_equal(selection.test, np.setdiff1d(np.arange(3), unseen))
    for spec in ("adult:2", "name:annab", "code:xyz", "small:456", "small:-1", "share:0.1000001"):
        name, _, value = spec.partition(":")
        message = rf"^forget='field:{spec}': field value must be one of \[.*\], got '{value}'$"
        with pytest.raises(ValueError, match=message):
            forget_sets.select(f"field:{spec}", train, held_out, rng)


@pytest.mark.parametrize("names", [np.array(["ann", "anna", "bob", "p4", "p5"]), np.arange(5) + 1])
def test_identities_are_whom_they_are_called(names, rng):
    train = {"targets": np.arange(8) % 2, "identity": names[[0, 0, 1, 1, 2, 2, 3, 3]]}
    held_out = {"targets": np.arange(4) % 2, "identity": names[[1, 2, 4, 4]]}
    selection = forget_sets.select(f"identity:{names[1]}+{names[0]}", train, held_out, rng)
    np.testing.assert_array_equal(selection.forget, [0, 1, 2, 3])
    np.testing.assert_array_equal(selection.unseen, [2, 3])
    np.testing.assert_array_equal(selection.test, [1])
    with pytest.raises(ValueError, match=r"^forget='identity:0': field value must be one of \["):
        forget_sets.select("identity:0", train, held_out, rng)


def test_what_the_held_out_data_lacks_is_named(rng):
    train = {**DATA, "raw_targets": TARGETS / 2}
    held_out = {"targets": TARGETS}
    for spec in ("field:identity:5", "identity:5"):
        with pytest.raises(ValueError, match=r"\['targets'\] of the held-out data, got 'identity'"):
            forget_sets.select(spec, train, held_out, rng)
    with pytest.raises(ValueError, match="held-out data has no 'raw_targets', as the training"):
        forget_sets.select("band:0:1", train, held_out, rng)


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
        ("class:x", r"class must be one of \[0, 1, 2\], got x"),
        ("class:1.5", r"class must be one of \[0, 1, 2\], got 1.5"),
        (f"class:{10**30}", f"class must be one of .*, got {10**30}"),
        ("class:", "class must be one of .*, got none"),
        ("class:0+1+2", "the forget set is the whole training set"),
        ("random:0", r"count must lie in \[1, 10\), got 0"),
        ("random:10", r"count must lie in \[1, 10\), got 10"),
        ("random:-1", r"fraction must lie in \(0, 1\), got -1.0"),
        ("random:0.0", r"fraction must lie in \(0, 1\), got 0.0"),
        ("random:1.5", r"fraction must lie in \(0, 1\), got 1.5"),
        ("random:nan", r"fraction must lie in \(0, 1\), got nan"),
        ("random:0.99", "the forget set is the whole training set"),
        ("random:", "fraction must be a number, got ''"),
        ("part:1", "must be like part:CLASS:FRACTION"),
        ("part:1:0.5:2", "must be like part:CLASS:FRACTION"),
        ("part:1:x", "fraction must be a number, got 'x'"),
        ("part:1:nan", r"fraction must lie in \(0, 1\), got nan"),
        ("part:7:0.5", r"class must be one of \[0, 1, 2\], got 7"),
        ("field:colour:3", r"field must be one of \['identity', 'targets'\] of the training data"),
        ("field:identiy:3", "got 'identiy'; did you mean 'identity'?"),
        ("field:identity", "must be like field:NAME:VALUE"),
        ("field:inputs:3", "field must be one of"),
        ("field:identity:77", r"field value must be one of \[9, 8, 7, 6, 5\], got '77'"),
        (f"field:identity:{10**30}", "field value must be one of"),
        ("band:1", "must be like band:LOW:HIGH"),
        ("band:nan:5", "band must have low < high, got nan and 5.0"),
        ("band:2:2", "band must have low < high, got 2.0 and 2.0"),
        ("band:x:5", "a bound must be a number, got 'x'"),
        ("band:70:80", "the forget set is empty"),
        ("indices:3+10", r"lie in \[0, 10\), got 10"),
        (f"indices:{10**30}", rf"lie in \[0, 10\), got {10**30}"),
        ("indices:3+x", r"must be positions in the training data, like indices:0.17"),
        ("indices:1.0", "must be positions in the training data"),
        ("indices:", "the forget set is empty"),
        ("klass:3", "must be one of class:3, .*; did you mean 'class'?"),
        ("", "must be one of class:3"),
    ],
)
def test_bad_specs_name_the_spec_and_what_is_allowed(spec, message, rng):
    data = {**DATA, "inputs": np.zeros((10, 2))}
    with pytest.raises(ValueError, match=f"^forget='{re.escape(spec)}': .*{message}") as caught:
        forget_sets.select(spec, data, data, rng)
    assert "\n" not in str(caught.value)


def test_nothing_and_everything_are_refused():
    with pytest.raises(ValueError, match="forget set is empty"):
        forget_sets.complement(np.array([], int), 10)
    with pytest.raises(ValueError, match="whole training set"):
        forget_sets.complement(np.arange(10), 10)
