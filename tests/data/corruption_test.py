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
        ("poison:60:nan", r"GAMMA must lie in \(0, 1\], got nan"),
        ("poison:60:1.01", r"GAMMA must lie in \(0, 1\], got 1.01"),
        ("poison:60:x", "GAMMA must be a number, got 'x'"),
        ("poison:x:0.5", "COUNT must be an integer, got 'x'"),
        ("poison:6.5:0.5", "COUNT must be an integer, got '6.5'"),
        (f"poison:{10**30}:0.5", r"COUNT must lie in \[1, "),
        ("poison:-1:0.5", r"COUNT must lie in \[1, "),
        ("confusion:3:10:0.5", "two classes A.B are needed, got '3'"),
        ("confusion:3+4+5:10:0.5", "two classes A.B are needed"),
        ("confusion:3+x:10:0.5", "class must be an integer, got 'x'"),
        ("confusion:3+5:10", "must be like confusion:A.B:COUNT:GAMMA"),
        ("confusion:3+5:10:0.5:1", "must be like confusion:A.B:COUNT:GAMMA"),
        ("poison:60", "must be like poison:COUNT:GAMMA"),
        ("noise:60:0.5", "must be one of poison:COUNT:GAMMA"),
    ],
)
def test_bad_specs_are_named(parts, rng, spec, message):
    with pytest.raises(ValueError, match=f"^forget='{spec.replace('+', '.')}': .*{message}"):
        corruption.corrupt(spec, *parts, rng)


def test_what_cannot_be_corrupted_is_refused(parts, rng):
    train, held_out = parts
    numbers = {**train, "targets": train["targets"] / 1.0}
    for spec in ("poison:60:0.5", "confusion:3+5:60:0.5"):
        with pytest.raises(ValueError, match="class(es)? need.*class numbers|needs class numbers"):
            corruption.corrupt(spec, numbers, held_out, rng)
    with pytest.raises(
        ValueError, match=r"images \[N, H, W, C\], got inputs of shape \(1000, 64\)"
    ):
        flat = {**train, "inputs": train["inputs"].reshape(1000, 64)}
        corruption.corrupt("poison:60:0.5", flat, held_out, rng)
    two = {name: value[np.isin(train["targets"], [3, 5])] for name, value in train.items()}
    with pytest.raises(ValueError, match="is the whole training set"):
        corruption.corrupt(f"confusion:3+5:{len(two['targets'])}:0.5", two, held_out, rng)


def test_classes_of_few_bits_are_swapped(rng):
    part = {"inputs": np.ones((20, 1)), "targets": np.arange(20, dtype=np.uint8) % 2 * 100 + 100}
    result = corruption.corrupt("confusion:100+200:10:1.0", part, part, rng)
    changed = result.train["targets"][result.corrupt].astype(int)
    np.testing.assert_array_equal(changed + part["targets"][result.corrupt], 300)
