import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from unlearnjax.audit import inputs


@pytest.mark.parametrize(
    ("given", "wide"),
    [
        (np.float16, np.float32),
        (ml_dtypes.bfloat16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int64, np.float64),
        (bool, np.float32),
    ],
)
def test_arrays_are_wide_enough_and_keep_their_values(given, wide):
    (array,) = inputs.finite(x=np.array([0, 1, 1]).astype(given))
    assert array.dtype == wide
    np.testing.assert_array_equal(array, [0, 1, 1])
    assert inputs.populations(x=array[None])[0].dtype == np.float64
    assert inputs.scores(x=array)[0].dtype == np.float64
    assert inputs.probabilities(x=array[None])[0].dtype == wide


def test_device_arrays_and_lists_are_taken():
    for given in (jnp.array([[0.5, 1.0]], jnp.bfloat16), [[0.5, 1.0]]):
        np.testing.assert_array_equal(inputs.populations(x=given)[0], [[0.5, 1.0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("check", [inputs.finite, inputs.populations, inputs.probabilities])
def test_what_is_not_finite_is_refused_by_name(check, bad):
    fine, broken = np.zeros((2, 3)), np.zeros((2, 3), np.float16)
    broken[0, 1] = bad
    with pytest.raises(ValueError, match="^second must be finite, got 1 of 6 NaN or infinite$"):
        check(first=fine, second=broken)
    with pytest.raises(ValueError, match="^second must be finite, got 1 of 3 NaN or infinite$"):
        inputs.scores(first=fine[0], second=broken[0])


def test_populations_have_the_same_examples_and_enough_models():
    found = inputs.populations(2, a=np.zeros((2, 3)), b=np.ones((5, 3)))
    assert [x.shape for x in found] == [(2, 3), (5, 3)]
    wrong = "^a and b must be .models, examples. of the same examples, got a .*, b "
    for shapes in (((2, 3), (2, 4)), ((3,), (3,)), ((2, 0), (2, 0)), ((2, 3, 1), (2, 3, 1))):
        with pytest.raises(ValueError, match=wrong):
            inputs.populations(a=np.zeros(shapes[0]), b=np.zeros(shapes[1]))
    with pytest.raises(ValueError, match="^at least 3 models of each kind are needed, got a 2$"):
        inputs.populations(3, a=np.zeros((2, 4)), b=np.zeros((3, 4)))
    with pytest.raises(ValueError, match="^at least 1 models of each kind are needed, got a 0$"):
        inputs.populations(a=np.zeros((0, 4)))


def test_scores_are_one_number_per_example():
    assert inputs.scores(2, a=[1, 2])[0].shape == (2,)
    for bad in (np.zeros(1), np.zeros((2, 1)), np.float64(1)):
        with pytest.raises(ValueError, match="^b must be .N. with at least 2 examples, got "):
            inputs.scores(2, a=np.zeros(2), b=bad)
    with pytest.raises(ValueError, match="^a must be .N. with at least 1 examples"):
        inputs.scores(a=[])


def test_probabilities_have_one_shape_and_are_not_negative():
    assert inputs.probabilities(a=[[0.0, 1.0]])[0].shape == (1, 2)
    for shape in ((2, 3), (3,), (1, 2, 3)):
        with pytest.raises(ValueError, match="^a and b must be .N, C. of the same examples, got"):
            inputs.probabilities(a=np.zeros((3, 2)), b=np.zeros(shape))
    for shape in ((3,), (0, 2), (2, 0)):
        with pytest.raises(ValueError, match="^a must be .N, C. of the same examples, got a "):
            inputs.probabilities(a=np.zeros(shape))
    with pytest.raises(ValueError, match="^b must be probabilities, >= 0, got -0.5$"):
        inputs.probabilities(a=[[0.5, 0.5]], b=[[1.5, -0.5]])
