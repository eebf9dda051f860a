import numpy as np
import pytest

from unlearnjax import data as data_lib


@pytest.fixture
def dataset(digits):
    names = tuple("0123456789")
    train, test = ({k: v[s] for k, v in digits.items()} for s in (slice(900), slice(900, None)))
    return data_lib.Dataset(train, test, 10, names, np.zeros(1), np.ones(1))


def test_superclasses_keep_the_subclass(dataset, rng):
    groups = ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))
    coarse = data_lib.with_superclasses(dataset, groups)
    assert coarse.num_classes == 2 and coarse.class_names == ("0+2+4+6+8", "1+3+5+7+9")
    for part, old in ((coarse.train, dataset.train), (coarse.test, dataset.test)):
        np.testing.assert_array_equal(part["targets"], old["targets"] % 2)
        np.testing.assert_array_equal(part["subclass"], old["targets"])
    chosen = data_lib.forget_sets.select("field:subclass:3", coarse.train, coarse.test, rng)
    np.testing.assert_array_equal(chosen.forget, np.flatnonzero(dataset.train["targets"] == 3))
    assert set(coarse.train["targets"][chosen.forget]) == {1}


@pytest.mark.parametrize("groups", [((0, 1), (1, 2)), ((0, 1, 2),), ((0,) * 10,)])
def test_groups_must_partition_the_classes(dataset, groups):
    with pytest.raises(ValueError, match="superclasses must hold each of the classes 0 to 9 once"):
        data_lib.with_superclasses(dataset, groups)


def test_a_field_can_be_the_target(dataset):
    add = lambda part: {**part, "coarse": part["targets"] // 5, "odd_one": part["targets"] + 1}
    dataset = dataset._replace(train=add(dataset.train), test=add(dataset.test))
    coarse = data_lib.with_target(dataset, "coarse")
    assert coarse.num_classes == 2
    np.testing.assert_array_equal(coarse.train["subclass"], dataset.train["targets"])
    with pytest.raises(ValueError, match=r"target must be one of the fields \['coarse', 'odd_one'"):
        data_lib.with_target(dataset, "corse")
    with pytest.raises(ValueError, match="must have the values 0, 1, ..."):
        data_lib.with_target(dataset, "odd_one")


def test_subsamples_are_distinct_and_renumbered(dataset, rng):
    part = data_lib.subsample(dataset.train, 50, rng)
    np.testing.assert_array_equal(part["index"], np.arange(50))
    rows = part["inputs"].reshape(50, -1)
    assert len(np.unique(rows, axis=0)) == 50
    assert data_lib.subsample(dataset.train, None, rng) is dataset.train
    with pytest.raises(ValueError, match=r"number of examples must lie in \[1, 900\], got 901"):
        data_lib.subsample(dataset.train, 901, rng)


def test_bands_are_closed_intervals(rng):
    values = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(data_lib.forget_sets.in_band(values, 2, 3), [1, 2])
    with pytest.raises(ValueError, match="low < high"):
        data_lib.forget_sets.in_band(values, 3, 3)
    part = {"targets": (values - 2.5) / 2, "raw_targets": values}
    chosen = data_lib.forget_sets.select("band:0:2", part, part, rng)
    np.testing.assert_array_equal(chosen.forget, [0, 1])
    np.testing.assert_array_equal(chosen.test, [2, 3])
