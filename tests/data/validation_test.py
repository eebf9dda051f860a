import ml_dtypes
import numpy as np
import pytest

from unlearnjax import data as data_lib


def part(**fields):
    good = {
        "inputs": np.ones((6, 2), np.float32),
        "targets": np.array([0, 1, 2, 0, 1, 2]),
        "index": np.arange(6),
    }
    return {name: value for name, value in {**good, **fields}.items() if value is not None}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_class_numbers_of_every_integer_type_are_welcome(dtype):
    data_lib.validate(part(targets=np.arange(6).astype(dtype) % 3), 3)


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((6, 4, 4, 3), np.uint8),
        np.zeros((6, 4), bool),
        np.zeros((6, 4), ml_dtypes.bfloat16),
        np.zeros((6, 4), np.float16),
        np.full((6, 4), -3.4e38),
        np.zeros(6),
        np.zeros((6, 0)),
        [[1.0]] * 6,
    ],
    ids=lambda x: str(getattr(x, "dtype", "list")),
)
def test_real_numbers_of_every_type_and_rank_are_welcome(inputs):
    data_lib.validate(part(inputs=inputs, note=np.array(list("abcdef")), index=None), 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_one_number_is_regression(dtype):
    data_lib.validate(part(targets=np.arange(6).astype(dtype) - 2.5), 1)


@pytest.mark.parametrize(
    ("fields", "num_classes", "message"),
    [
        ({"targets": np.array([0, 1, -1, 2, 0, -1])}, 3, r"in \[0, 3\), got -1, -1 in row 2, 5"),
        ({"targets": np.array([1, 2, 3, 1, 2, 3])}, 3, r"in \[0, 3\), got 3, 3 in row 2, 5"),
        ({"targets": np.arange(6)}, 1, r"got 1, 2, 3, 4, 5 in row 1, 2, 3, 4, 5$"),
        ({"targets": np.arange(6) + 3}, 3, r"in row 0, 1, 2, 3, 4, ... \(6 in all\)$"),
        ({"targets": np.arange(6) / 1}, 6, r"the class numbers in \[0, 6\), .*; got float64"),
        ({"targets": np.arange(6) > 2}, 2, r"targets must be integers, .*; got bool"),
        ({"targets": np.array(list("abcabc"))}, 3, "targets must be integers, .*; got <U1"),
        ({"targets": np.zeros((6, 1), int)}, 3, r"targets must be \[N\], got shape \(6, 1\)"),
        ({"targets": np.array([0, 1, np.nan, 1, np.inf, 1])}, 1, "targets must be finite.* 2, 4$"),
        ({"targets": np.full(6, 1e39)}, 1, "targets must be finite, got others in row 0"),
        ({"inputs": np.array([[0, 1], [np.nan, 1]] * 3)}, 3, "inputs must be finite.* 1, 3, 5$"),
        ({"inputs": np.array([[0.0], [-np.inf]] * 3)}, 3, "inputs must be finite.* 1, 3, 5$"),
        ({"inputs": np.array([[0.0], [1e39]] * 3)}, 3, "inputs must be finite.* 1, 3, 5$"),
        ({"inputs": np.zeros((6, 2), complex)}, 3, "inputs must be real numbers, got complex128"),
        ({"inputs": np.array(list("abcdef"))}, 3, "inputs must be real numbers, got <U1"),
        (
            {"inputs": np.zeros((5, 2))},
            3,
            r"one value per example .* inputs \(5, 2\), targets \(6,",
        ),
        ({"inputs": np.zeros((0, 2)), "targets": np.zeros(0, int), "index": None}, 3, "one value"),
        ({"person": 3}, 3, r"one value per example in each field, .* person \(\)"),
        ({"person": np.arange(7)}, 3, r"one value per example .* person \(7,\)"),
        ({"targets": np.int32(1)}, 3, "one value per example"),
        ({"inputs": None}, 3, r"must have 'inputs' and 'targets', got \['index', 'targets'\]"),
        ({"index": np.array([0, 1, 1, 3, 1, 5])}, 3, "must be distinct, got 1, 1 in row 2, 4"),
        ({"index": np.arange(6) - 1}, 3, r"index must lie in \[0, 2147483647\], got -1 in row 0"),
        ({"index": np.arange(6) + 2**31 - 5}, 3, "got 2147483648 in row 5"),
        ({"index": np.arange(6) / 1}, 3, r"index must be integers \[N\], got float64"),
        ({"index": np.zeros((6, 1), int)}, 3, r"index must be integers \[N\], got int64 \(6, 1\)"),
    ],
)
def test_what_no_model_can_learn_from_is_named_by_row(fields, num_classes, message):
    with pytest.raises(ValueError, match=f"^val .*{message}") as caught:
        data_lib.validate(part(**fields), num_classes, "val")
    assert "\n" not in str(caught.value)


def test_the_largest_numbers_that_are_right():
    data_lib.validate(part(targets=np.array([0, 0, 0, 0, 0, 2]), index=np.arange(6) + 2**31 - 6), 3)
    data_lib.validate(part(targets=np.zeros(6, int)), 1)
