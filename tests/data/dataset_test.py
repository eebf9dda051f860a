import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

from unlearnjax import data as data_lib


@pytest.fixture
def dataset(digits):
    names = tuple("0123456789")
    train, test = ({k: v[s] for k, v in digits.items()} for s in (slice(900), slice(900, None)))
    return data_lib.Dataset(train, test, 10, names, np.zeros(1), np.ones(1))


def standardised(train, test):
    """The inputs of both, and the data set; every example is of the one class."""
    labelled = [{"inputs": x, "targets": np.zeros(len(x), np.int32)} for x in (train, test)]
    result = data_lib.standardised(*labelled, ("one",))
    return result.train["inputs"], result.test["inputs"], result


def scikit_learn(train, test):
    """Both by scikit-learn, in float64, column by column."""
    train, test = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (train, test))
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


TABLES = {
    "usual": lambda rng, n: rng.normal(3, 5, n),
    "tiny": lambda rng, n: rng.normal(0, 1e-9, n),
    "huge": lambda rng, n: rng.normal(0, 1e30, n),
    "large offset": lambda rng, n: rng.normal(1e6, 1e-3, n),
    "zero": lambda rng, n: np.zeros(n),
    "constant": lambda rng, n: np.full(n, 0.1),
    "large constant": lambda rng, n: np.full(n, 1e6 + 0.1),
    "constant but for rounding": lambda rng, n: 0.1 + 1e-17 * np.arange(n),
    "one differs": lambda rng, n: np.eye(1, n)[0] * 1e-4,
    "square below float32": lambda rng, n: rng.normal(0, 1e-30, n),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("size", [1, 50])
def test_columns_are_scaled_as_by_scikit_learn(name, size, rng):
    train = np.stack([TABLES[name](rng, size), rng.normal(0, 1, size)], 1)
    test = train[:1] + np.array([[0.0], [1.0], [-7.0]])
    expected = scikit_learn(train, test)
    for actual, wanted in zip(standardised(train, test), expected, strict=False):
        assert actual.dtype == np.float32
        wanted = wanted.astype(np.float32)
        np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=2e-6)  # float32


def test_what_float32_does_not_hold_is_right_or_refused(rng):
    train = rng.normal(0, 1e-60, (50, 1))
    actual = standardised(train, train)[0]
    np.testing.assert_allclose(actual, scikit_learn(train, train)[0], rtol=1e-6)
    with pytest.raises(ValueError, match="standardised test inputs must be finite.* in row 1$"):
        standardised(train, np.array([[0.0], [1.0]]))


def test_float32_columns_with_a_large_offset_are_centred(rng):
    train = (1e6 + rng.integers(0, 3, (40, 2)) / 16).astype(np.float32)
    actual, _, dataset = standardised(train, train)
    np.testing.assert_allclose(actual, scikit_learn(train, train)[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(actual * dataset.std + dataset.mean, train, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, np.float16, np.float32])
def test_inputs_of_any_type_are_standardised_in_float32(dtype, rng):
    train = rng.integers(0, 2, (30, 3)).astype(dtype)
    for actual, wanted in zip(
        standardised(train, ~train[:3] if dtype is bool else train[:3]),
        scikit_learn(train, ~train[:3] if dtype is bool else train[:3]),
        strict=False,
    ):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


def test_images_are_scaled_by_channel_and_without_an_axis_for_it_as_one(rng):
    images = rng.normal(2, 3, (8, 4, 5, 3))
    images[..., 1] = 7.0
    test = images[:2] + 1
    flat = [x.transpose(3, 0, 1, 2).reshape(3, -1).T for x in (images, test)]
    for actual, wanted in zip(standardised(images, test), scikit_learn(*flat), strict=False):
        actual = actual.transpose(3, 0, 1, 2).reshape(3, -1).T
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)
    images[..., 2] = 1 + 1e-14 * rng.normal(size=(8, 4, 5))  # constant but for rounding, of so many
    assert (standardised(images, test)[2].std[1:] == 1).all()
    grey, column = images[..., 0], images[:, 0, 0, 0]
    for bare in (grey, column):
        with_axis = standardised(bare[..., None], bare[:1, ..., None])
        without = standardised(bare, bare[:1])
        for actual, wanted in zip(without[:2], with_axis[:2], strict=True):
            np.testing.assert_array_equal(actual, wanted[..., 0])
        assert without[2].mean.shape == without[2].std.shape == (1,)
    assert abs(standardised(grey, grey)[0].std() - 1) < 1e-6


def test_pixels_that_are_blank_in_few_images_do_not_explode_in_others():
    """What 100 digits as a table do to all the others."""
    pixels = load_digits().data.astype(np.float32)
    _, test, dataset = standardised(pixels[:100], pixels[100:])
    constant = pixels[:100].std(0) == 0
    assert constant.any() and (dataset.std[constant] == 1).all()
    np.testing.assert_array_equal(
        test[:, constant], pixels[100:][:, constant] - pixels[0, constant]
    )


def test_the_digits_are_scaled_in_float32_as_always():
    images = load_digits().images[..., None].astype(np.float32)
    actual, _, dataset = standardised(images, images)
    mean = images.mean((0, 1, 2), dtype=np.float64).astype(np.float32)
    std = images.std((0, 1, 2), dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(actual, (images - mean) / std)
    assert dataset.mean.dtype == dataset.std.dtype == np.float32


def test_bad_parts_are_refused_by_name(rng):
    good = {"inputs": rng.normal(size=(4, 2)), "targets": np.array([0, 1, 0, 1])}
    names = ("no", "yes")
    for train, test, message in (
        (
            {**good, "targets": np.array([1, 2, 1, 2])},
            good,
            "^train targets .* got 2, 2 in row 1, 3",
        ),
        (
            good,
            {**good, "inputs": np.full((4, 2), np.inf)},
            "^test inputs must be finite, got others",
        ),
        (
            good,
            {**good, "inputs": np.ones((4, 1))},
            r"must be of shape \(2,\) as in train, got \(1,\)",
        ),
        ({**good, "who": ["a"]}, good, r"^train must have one value per example .* who \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            data_lib.standardised(train, test, names)


@pytest.mark.parametrize(("given", "typed"), [(np.float64, np.float32), (np.float16, np.float16)])
def test_a_set_made_elsewhere_keeps_its_inputs_in_at_most_float32(given, typed):
    part = {"inputs": np.ones((2, 3), given), "targets": np.array([0, 1])}
    dataset = data_lib.Dataset(part, part, 2, ("a", "b"), np.zeros(3), np.ones(3))
    assert data_lib.dataset.entered(dataset).test["inputs"].dtype == typed


def test_parts_have_the_types_that_are_promised(rng):
    raw = {"inputs": rng.normal(size=(4, 2)), "targets": np.arange(4, dtype=np.uint8) % 2}
    raw |= {"who": ["ann", "bob", "ann", "zoe"], "age": np.array([0.1, 0.2, 0.3, 0.4])}
    part = data_lib.standardised(raw, raw, ("a", "b")).train
    assert {name: value.dtype for name, value in part.items()} == {
        "inputs": np.float32,
        "targets": np.int32,
        "index": np.int32,
        "who": np.dtype("<U3"),
        "age": np.float64,  # exact, on the host
    }
    raw["targets"] = np.arange(4.0)
    assert data_lib.standardised(raw, raw, ("age",)).train["targets"].dtype == np.float32


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
    with pytest.raises(ValueError, match=r"values 0, 1, ..., got 1, 2, 3, 4, 5, ... \(10 in all\)"):
        data_lib.with_target(dataset, "odd_one")
    who = lambda part: {**part, "who": np.array([None, "ann"], object)[part["targets"] % 2]}
    named = dataset._replace(train=who(dataset.train), test=who(dataset.test))
    with pytest.raises(ValueError, match="values 0, 1, ..., got None, ann"):
        data_lib.with_target(named, "who")
    lacking = named._replace(test=dataset.test)
    with pytest.raises(ValueError, match=r"fields \['coarse', 'odd_one'\], got 'who'"):
        data_lib.with_target(lacking, "who")


def test_subsamples_are_distinct_and_renumbered(dataset, rng):
    part = data_lib.subsample(dataset.train, 50, rng)
    np.testing.assert_array_equal(part["index"], np.arange(50))
    rows = part["inputs"].reshape(50, -1)
    assert len(np.unique(rows, axis=0)) == 50
    assert data_lib.subsample(dataset.train, None, rng) is dataset.train
    with pytest.raises(ValueError, match=r"number of examples must lie in \[1, 900\], got 901"):
        data_lib.subsample(dataset.train, 901, rng)


def test_validation_split_partitions_and_renumbers(digits, rng):
    train, val = data_lib.split_validation(digits, 0.2, rng)
    assert len(val["targets"]) == round(0.2 * 1797)
    assert len(train["targets"]) + len(val["targets"]) == 1797
    np.testing.assert_array_equal(train["index"], np.arange(len(train["targets"])))
    total = train["inputs"].sum(0) + val["inputs"].sum(0)
    np.testing.assert_allclose(total, digits["inputs"].sum(0), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"validation fraction must lie in \(0, 1\), got 1.0"):
        data_lib.split_validation(digits, 1.0, rng)
    with pytest.raises(ValueError, match="fraction 0.9999 of 1797 examples leaves none to train"):
        data_lib.split_validation(digits, 0.9999, rng)


def test_bands_are_closed_intervals(rng):
    values = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(data_lib.forget_sets.in_band(values, 2, 3), [1, 2])
    with pytest.raises(ValueError, match="low < high"):
        data_lib.forget_sets.in_band(values, 3, 3)
    part = {"targets": (values - 2.5) / 2, "raw_targets": values}
    chosen = data_lib.forget_sets.select("band:0:2", part, part, rng)
    np.testing.assert_array_equal(chosen.forget, [0, 1])
    np.testing.assert_array_equal(chosen.test, [2, 3])


def test_images_to_be_generated_lie_between_the_training_sets_extremes():
    rng = np.random.default_rng(0)
    raw = rng.integers(3, 19, (40, 4, 4, 2)).astype(np.float32)
    raw[0, 0, 0, 0], raw[1, 0, 0, 1] = 2, 20
    beyond = np.full((2, 4, 4, 2), 11.0, np.float32)
    beyond[0, 0, 0] = [-50, 50]
    parts = [{"inputs": x, "targets": np.arange(len(x), dtype=np.int32) % 3} for x in (raw, beyond)]
    found = data_lib.conditioned(data_lib.standardised(*parts, "abc"))
    # One scale for both channels, though each was standardised by itself.
    np.testing.assert_allclose(found.train["inputs"], (raw - 11) / 9, atol=1e-6)
    assert found.train["inputs"].dtype == np.float32
    expected = np.zeros((2, 4, 4, 2))
    expected[0, 0, 0] = [-1, 1]
    np.testing.assert_allclose(found.test["inputs"], expected, atol=1e-6)
    back = found.train["inputs"] * found.std + found.mean
    np.testing.assert_allclose(back, raw, atol=1e-5)
    for part in (found.train, found.test):
        np.testing.assert_array_equal(part["condition"], part["targets"])
        assert part["condition"].dtype == np.int32


def test_what_cannot_be_generated_by_class_is_refused(dataset):
    numbers = {**dataset.train, "targets": dataset.train["targets"].astype(np.float32)}
    with pytest.raises(ValueError, match="condition must be a class, but targets are numbers"):
        data_lib.conditioned(dataset._replace(train=numbers))
    flat = {**dataset.train, "inputs": np.full_like(dataset.train["inputs"], 0.5)}
    with pytest.raises(ValueError, match="more than one value to be scaled, all are 0.5"):
        data_lib.conditioned(dataset._replace(train=flat))
