"""Every lower level by NumPy, at selections that are not 0 or 1."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from tests.unlearning import linear
from unlearnjax import selection

SELECTED = np.array([0.0, 0.25, 0.5, 1.0])
# What is multiplied with 1 - w and with w, of (loss, loss of the wrong label, divergence).
CASES = {
    "finetune": ((), lambda loss, wrong, far: loss, lambda loss, wrong, far: 0),
    "gradient_ascent": (
        (),
        lambda loss, wrong, far: 0,
        lambda loss, wrong, far: -np.minimum(loss, np.log(3)),
    ),
    "gradient_ascent bounded": (
        (0.8,),
        lambda loss, wrong, far: 0,
        lambda loss, wrong, far: -np.minimum(loss, 0.8),
    ),
    "gradient_ascent_plus": (
        (),
        lambda loss, wrong, far: 0.9 * loss,
        lambda loss, wrong, far: -0.1 * np.minimum(loss, np.log(3)),
    ),
    "gradient_ascent_plus given": (
        (0.25, 0.8),
        lambda loss, wrong, far: 0.25 * loss,
        lambda loss, wrong, far: -0.75 * np.minimum(loss, 0.8),
    ),
    "random_label": ((), lambda loss, wrong, far: loss, lambda loss, wrong, far: wrong),
    "random_label given": (
        (3.0,),
        lambda loss, wrong, far: loss,
        lambda loss, wrong, far: 3 * wrong,
    ),
    "l1_sparse": ((), lambda loss, wrong, far: loss, lambda loss, wrong, far: 0),
    "scrub": (
        (),
        lambda loss, wrong, far: 0.001 * far + 0.99 * loss,
        lambda loss, wrong, far: -far,
    ),
    "scrub given": (
        (0.5, 2.0),
        lambda loss, wrong, far: 0.5 * far + 2 * loss,
        lambda loss, wrong, far: -far,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_either_side_in_the_shares_of_the_selection(case):
    arguments, kept, gone = CASES[case]
    _, student, original = linear.problem()
    batch = linear.part(np.random.default_rng(0), 4)
    batch["relabelled"] = (batch["targets"] + 1) % linear.CLASSES
    lower = selection.lower.BY_NAME[case.split()[0]](*arguments)
    losses = lower.losses(linear.TASK, student, original, batch, jnp.asarray(SELECTED))
    own, frozen = (
        scipy.special.log_softmax(np.asarray(batch["inputs"]) @ linear.weights(v), axis=1)
        for v in (student, original)
    )
    loss, wrong = (-own[np.arange(4), np.asarray(batch[k])] for k in ("targets", "relabelled"))
    far = (np.exp(frozen) * (frozen - own)).sum(1)
    sides = (side(loss, wrong, far) for side in (kept, gone))
    expected = (1 - SELECTED) * next(sides) + SELECTED * next(sides)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("arguments", "gamma"), [((), 1e-4), ((0.5,), 0.5)])
def test_the_penalty_of_l1_sparse_is_the_sum_of_absolute_values(arguments, gamma):
    _, student, original = linear.problem()
    penalty = selection.lower.l1_sparse(*arguments).penalty
    expected = gamma * np.abs(linear.weights(student)).sum()
    assert float(penalty(student["params"], original["params"])) == pytest.approx(expected)
