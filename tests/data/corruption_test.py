import numpy as np
import pytest

from unlearnjax.data import corruption


@pytest.fixture
def parts(digits):
    return {k: v[:1000] for k, v in digits.items()}, {k: v[1000:] for k, v in digits.items()}


def test_poison_puts_the_trigger_and_the_label_on_the_chosen_alone(parts, rng):
    train, held_out = parts
    before = {k: v.copy() for k, v in train.items()}
    result = corruption.corrupt("poison:60:0.5", train, held_out, rng)
    changed = np.flatnonzero((result.train["inputs"] != train["inputs"]).any((1, 2, 3)))
    assert set(changed) <= set(result.corrupt) and len(result.corrupt) == 60
    assert (result.train["inputs"][result.corrupt][:, -1, -1] == train["inputs"].max()).all()
    assert (result.train["targets"][result.corrupt] == 0).all()
    assert (train["targets"][result.corrupt] != 0).all()
    rest = np.setdiff1d(np.arange(1000), result.corrupt)
    np.testing.assert_array_equal(result.train["targets"][rest], train["targets"][rest])
    for name in train:  # the data that was given is left as it was
        np.testing.assert_array_equal(train[name], before[name])


def test_poisons_held_out_copies_carry_the_trigger_and_true_labels(parts, rng):
    train, held_out = parts
    result = corruption.corrupt("poison:60:0.5", train, held_out, rng)
    n = len(held_out["targets"])
    np.testing.assert_array_equal(result.selection.test, np.arange(n))
    unseen = result.selection.unseen
    assert len(unseen) == (held_out["targets"] != 0).sum()
    assert (result.held_out["targets"][unseen] != 0).all()
    assert (result.held_out["inputs"][unseen][:, -1, -1] == train["inputs"].max()).all()
    np.testing.assert_array_equal(result.held_out["inputs"][:n], held_out["inputs"])


def test_confusion_swaps_two_labels_on_the_chosen(parts, rng):
    train, held_out = parts
    result = corruption.corrupt("confusion:3+5:80:1.0", train, held_out, rng)
    old, new = train["targets"], result.train["targets"]
    assert len(result.corrupt) == 80
    np.testing.assert_array_equal(np.flatnonzero(old != new), result.corrupt)
    np.testing.assert_array_equal(old[result.corrupt] + new[result.corrupt], 8)
    assert set(held_out["targets"][result.selection.unseen]) == {3, 5}
    assert not set(held_out["targets"][result.selection.test]) & {3, 5}


@pytest.mark.parametrize(("gamma", "known"), [(0.1, 8), (0.5, 40), (1.0, 80)])
def test_gamma_is_the_share_that_is_known(parts, rng, gamma, known):
    result = corruption.corrupt(f"confusion:3+5:80:{gamma}", *parts, rng)
    assert len(result.selection.forget) == known
    assert set(result.selection.forget) <= set(result.corrupt)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("poison:60:0", r"GAMMA must lie in \(0, 1\], got 0"),
        ("poison:0:0.5", r"COUNT must lie in \[1, "),
        ("confusion:3+3:10:0.5", "two different classes"),
        ("confusion:3+33:10:0.5", "class must be one of"),
        ("poison:60", "not enough values"),
        ("noise:60:0.5", "must be one of poison:COUNT:GAMMA"),
    ],
)
def test_bad_specs_are_named(parts, rng, spec, message):
    with pytest.raises(ValueError, match=f"forget='{spec.replace('+', '.')}'.*{message}"):
        corruption.corrupt(spec, *parts, rng)
