import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import checks

RANGES = {
    "at_least": (lambda **v: checks.at_least(2, **v), (2, np.float32(3)), (1.9, -np.inf)),
    "positive": (checks.positive, (1e-9, np.inf, True), (0, -1.0)),
    "finite": (checks.finite, (0, -5.0, jnp.float32(1)), (np.inf, -np.inf)),
    "within": (lambda **v: checks.within(-1, 3, **v), (-1, 3, 0.5), (-1.1, 3.1)),
    "share": (checks.share, (0, 1, 0.5), (-0.1, 1.1)),
    "part": (checks.part, (1e-9, 1, jnp.float32(1)), (0, 1.1)),
    "open_share": (checks.open_share, (1e-9, 0.5), (0, 1, 1.1)),
}


@pytest.mark.parametrize("name", RANGES)
def test_numbers_in_range_pass_and_others_are_named(name):
    check, good, bad = RANGES[name]
    for value in good:
        check(rate=value)
    for value in (*bad, np.nan, jnp.float32(np.nan)):
        with pytest.raises(ValueError, match="rate must .*, got"):
            check(other=good[0], rate=value)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", ["1", "a", np.str_("1"), None, [1], 1j])
def test_what_is_no_number_is_refused_in_the_same_way(name, value):
    with pytest.raises(ValueError, match="rate must be a number, got"):
        RANGES[name][0](rate=value)


@pytest.mark.parametrize("name", RANGES)
def test_what_is_traced_is_not_checked(name):
    jax.jit(lambda value: RANGES[name][0](rate=value))(-7.0)
