import jax
import numpy as np
import pytest

from unlearnjax.data import attacks, triggers

LIT = triggers.patch(1)  # sets the lower right pixel to 1


@pytest.fixture
def data(rng):
    """Thirty images of three classes, the lower right pixel below 0.5."""
    inputs = rng.uniform(0, 0.5, (30, 4, 4, 1)).astype(np.float32)
    return inputs, np.arange(30, dtype=np.int32) % 3


def expected(inputs, targets, positions, labels):
    inputs, targets = inputs.copy(), targets.copy()
    inputs[positions, -1, -1] = 1
    targets[positions] = labels
    return inputs, targets


@pytest.mark.parametrize(
    ("rule", "eligible", "label"),
    [
        (attacks.all_to_one(2), lambda y: y != 2, lambda y: 2 + 0 * y),
        (attacks.all_to_all(3), lambda y: y >= 0, lambda y: np.array([1, 2, 0])[y]),
        (attacks.clean_label(1), lambda y: y == 1, lambda y: y),
    ],
)
def test_a_rule_says_who_is_poisoned_and_what_they_are_called(data, rng, rule, eligible, label):
    inputs, targets = data
    before = inputs.copy(), targets.copy()
    result = attacks.poison(inputs, targets, LIT, target_rule=rule, count=9, rng=rng)
    assert len(result.positions) == 9 == len(set(result.positions)) and not result.cover.size
    assert eligible(targets[result.positions]).all() and (np.diff(result.positions) > 0).all()
    images, labels = expected(inputs, targets, result.positions, label(targets[result.positions]))
    np.testing.assert_array_equal(result.inputs, images)
    np.testing.assert_array_equal(result.targets, labels)
    assert result.targets.dtype == np.int32 and result.inputs.dtype == np.float32
    for now, then in zip(data, before, strict=True):  # what was given is left as it was
        np.testing.assert_array_equal(now, then)
    most = int(eligible(targets).sum())
    everyone = attacks.poison(inputs, targets, LIT, target_rule=rule, count=most, rng=rng)
    np.testing.assert_array_equal(everyone.positions, np.flatnonzero(eligible(targets)))
    with pytest.raises(ValueError, match=rf"count must lie in \[1, {most}\], got {most + 1}"):
        attacks.poison(inputs, targets, LIT, target_rule=rule, count=most + 1, rng=rng)


@pytest.mark.parametrize(
    ("rule", "victims", "wanted"),
    [
        (attacks.all_to_one(2), lambda y: y != 2, lambda y: 2 + 0 * y),
        (attacks.all_to_all(3), lambda y: y >= 0, lambda y: (y + 1) % 3),
        (attacks.clean_label(1), lambda y: y != 1, lambda y: 1 + 0 * y),
    ],
)
def test_success_is_counted_on_images_that_the_model_should_call_otherwise(
    data, rule, victims, wanted
):
    inputs, targets = data
    result = attacks.triggered({"inputs": inputs, "targets": targets}, LIT, rule)
    rows = np.flatnonzero(victims(targets))
    np.testing.assert_array_equal(result.positions, rows)
    np.testing.assert_array_equal(result.targets, targets[rows])
    np.testing.assert_array_equal(result.wanted, wanted(targets[rows]))
    assert (result.wanted != result.targets).all()
    np.testing.assert_array_equal(result.inputs, expected(inputs, targets, rows, 0)[0][rows])


def test_a_clean_label_attack_starts_from_images_that_are_hard_to_learn(data, rng):
    inputs, targets = data
    moved = np.where((targets == 1)[:, None, None, None], inputs + 0.25, np.nan)
    result = attacks.poison(
        inputs,
        targets,
        LIT,
        target_rule=attacks.clean_label(1),
        count=4,
        rng=rng,
        adversarial=moved,
    )
    rest = np.setdiff1d(np.arange(30), result.positions)
    np.testing.assert_array_equal(result.inputs[rest], inputs[rest])
    np.testing.assert_array_equal(
        result.inputs[result.positions],
        expected(moved, targets, result.positions, 1)[0][result.positions],
    )
    np.testing.assert_array_equal(result.targets, targets)


def test_cover_images_are_changed_with_their_labels_kept(data):
    inputs, targets = data
    rng = np.random.default_rng(0)
    rule, dark = attacks.all_to_one(0), lambda x: np.zeros_like(x)
    result = attacks.poison(
        inputs, targets, LIT, target_rule=rule, count=5, rng=rng, cover=dark, num_cover=10
    )
    assert len(result.cover) == 10 and not set(result.cover) & set(result.positions)
    images, labels = expected(inputs, targets, result.positions, 0)
    images[result.cover] = 0
    np.testing.assert_array_equal(result.inputs, images)
    np.testing.assert_array_equal(result.targets, labels)
    again = attacks.poison(
        inputs, targets, LIT, target_rule=rule, count=5, rng=np.random.default_rng(0)
    )
    np.testing.assert_array_equal(again.positions, result.positions)
    with pytest.raises(ValueError, match=r"num_cover must lie in \[1, 25\], got 26"):
        attacks.poison(
            inputs, targets, LIT, target_rule=rule, count=5, rng=rng, cover=dark, num_cover=26
        )


def test_noise_mode_covers_with_the_same_field(rng):
    """The mean over many noises is near the warp itself, which it is not of another field's."""
    inputs = np.tile(rng.uniform(size=(1, 6, 6, 1)).astype(np.float32), (200, 1, 1, 1))
    targets = np.arange(200) % 2
    key = jax.random.key(0)
    attack, cover = (triggers.warp(key, strength=2.0, noise=n) for n in (None, jax.random.key(1)))
    result = attacks.poison(
        inputs, targets, attack, target_rule=attacks.all_to_one(0), count=50, rng=rng,
        cover=cover, num_cover=100,
    )  # fmt: skip
    bent = result.inputs[result.positions[0]]
    distance = lambda image: np.abs(result.inputs[result.cover].mean(0) - image).mean()
    assert distance(bent) < 0.2 * distance(inputs[0])
    np.testing.assert_array_equal(result.targets[result.cover], targets[result.cover])


def test_sentences_are_poisoned_as_images_are(rng):
    tokens = rng.integers(1, 9, (12, 5)).astype(np.int32)
    targets, rule = np.arange(12) % 2, attacks.all_to_one(1)
    trigger = lambda ids: np.concatenate([np.full((len(ids), 1), 9), ids[:, :-1]], axis=1)
    result = attacks.poison(tokens, targets, trigger, target_rule=rule, count=4, rng=rng)
    rows, rest = result.positions, np.setdiff1d(np.arange(12), result.positions)
    np.testing.assert_array_equal(result.inputs[rows], trigger(tokens[rows]))
    np.testing.assert_array_equal(result.inputs[rest], tokens[rest])
    assert (targets[rows] == 0).all() and (result.targets[rows] == 1).all()
    held_out = attacks.triggered({"inputs": tokens, "targets": targets}, trigger, rule)
    np.testing.assert_array_equal(held_out.inputs, trigger(tokens[::2]))
    with pytest.raises(ValueError, match="images .* or tokens .*got float64"):
        attacks.poison(tokens / 1.0, targets, trigger, target_rule=rule, count=4, rng=rng)


def test_pixels_may_leave_their_range_by_rounding_alone(data, rng):
    inputs, targets = data
    good = {"target_rule": attacks.all_to_one(0), "count": 3, "rng": rng}
    for value, allowed in ((-0.9e-4, True), (1 + 0.9e-4, True), (-1.5e-4, False), (1.00015, False)):
        moved = inputs.copy()
        moved[5, 0, 0] = value
        if allowed:
            assert (attacks.poison(moved, targets, LIT, **good).inputs == moved[5, 0, 0]).any()
        else:
            with pytest.raises(ValueError, match=r"inputs must be pixels in \[0, 1\]"):
                attacks.poison(moved, targets, LIT, **good)


def test_bad_arguments_are_named(data, rng):
    inputs, targets = data
    good = {"target_rule": attacks.all_to_one(0), "count": 3, "rng": rng}

    def poison(inputs=inputs, targets=targets, **changed):
        return lambda: attacks.poison(inputs, targets, LIT, **{**good, **changed})

    only = {"inputs": inputs[targets == 0], "targets": targets[targets == 0]}
    for attempt, message in (
        (
            poison(inputs[..., 0]),
            r"must be images \[N, H, W, C\] or tokens.*got float32 \(30, 4, 4\)",
        ),
        (poison(inputs.astype(np.uint8)), "inputs must be floating-point"),
        (poison(inputs - 0.5), r"inputs must be pixels in \[0, 1\], got -0.*to_pixels"),
        (poison(inputs * 255), r"inputs must be pixels in \[0, 1\]"),
        (poison(inputs * np.nan), r"inputs must be pixels in \[0, 1\], got nan"),
        (poison(targets=targets / 1.0), "targets must be 30 class numbers, got float64"),
        (poison(targets=targets[:9]), r"targets must be 30 class numbers, got int32 \(9,\)"),
        (poison(count=0), r"count must lie in \[1, 20\], got 0"),
        (poison(count=1.5), "count must be a whole number, got 1.5"),
        (poison(adversarial=inputs[:9]), r"adversarial must be of shape \(30, .*got \(9, "),
        (poison(adversarial=inputs - 1), r"adversarial must be pixels in \[0, 1\]"),
        (poison(cover=LIT), "cover and num_cover go together"),
        (poison(num_cover=2), "cover and num_cover go together, got None and 2"),
        (poison(target_rule=attacks.all_to_one(3)), r"one of the classes \[0, 1, 2\], got 3"),
        (poison(target_rule=attacks.clean_label(7)), r"one of the classes \[0, 1, 2\], got 7"),
        (poison(target_rule=attacks.all_to_all(5)), r"one of the classes \[0, 1, 2\], got 3"),
        (lambda: attacks.all_to_one(-1), "target must be >= 0, got -1"),
        (lambda: attacks.clean_label(0.5), "target must be a whole number, got 0.5"),
        (lambda: attacks.all_to_all(1), "num_classes must be >= 2, got 1"),
        (lambda: attacks.triggered(only, LIT, good["target_rule"]), "must have images of other"),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
