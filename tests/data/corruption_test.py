import zlib

import numpy as np
import pytest

from unlearnjax.data import Dataset, corruption, pixels, text_attacks, triggers, words

IMAGES = {"inputs": np.zeros((4, 8, 8, 1), np.float32), "targets": np.arange(4) % 2}
IMAGE_SET = Dataset(IMAGES, IMAGES, 2, (), np.zeros(1), np.ones(1))


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


def test_without_a_trigger_the_poison_is_what_it_always_was(parts, rng):
    result = corruption.corrupt("poison:60:0.5", *parts, rng)
    arrays = [result.train["targets"], result.held_out["targets"], result.corrupt]
    arrays += [*result.selection, result.train["inputs"] == result.train["inputs"].max()]
    golden = [3288798449, 1629259267, 1707963817, 997115388, 2203816558, 1102032599, 3454490854]
    assert [zlib.crc32(np.ascontiguousarray(array).tobytes()) for array in arrays] == golden


@pytest.fixture(scope="module")
def dataset(digits):
    """The digits with what standardised them: stored from 0 to 16."""
    std = 16 / (digits["inputs"].max() - digits["inputs"].min())
    mean = -digits["inputs"].min() * std
    return Dataset(digits, digits, 10, (), np.float32([mean]), np.float32([std]))


@pytest.mark.parametrize("name", triggers.TRIGGERS)
def test_any_trigger_poisons_the_pixels_of_the_chosen(parts, rng, dataset, name):
    train, held_out = parts
    result = corruption.corrupt(f"poison:60:0.5:{name}", train, held_out, rng, dataset)
    same = corruption.corrupt("poison:60:0.5", train, held_out, np.random.default_rng(0))
    np.testing.assert_array_equal(result.corrupt, same.corrupt)
    np.testing.assert_array_equal(result.train["targets"], same.train["targets"])
    rest = np.setdiff1d(np.arange(1000), result.corrupt)
    np.testing.assert_array_equal(result.train["inputs"][rest], train["inputs"][rest])
    before, after = (data["inputs"][result.corrupt] for data in (train, result.train))
    # The centre of many digits is lit as it is.
    assert (before != after).any((1, 2, 3)).mean() > (0.6 if name == "one_pixel" else 0.95)
    images = (after * dataset.std + dataset.mean) / 16
    assert -1e-5 < images.min() and images.max() < 1 + 1e-5
    if name == "patch":
        np.testing.assert_allclose(images[:, -1, -1], 1, atol=1e-6)
        np.testing.assert_array_equal(after[:, :-1], before[:, :-1])
    # The held-out copies have the same trigger.
    if name == "blend":
        unseen = result.selection.unseen
        noise = lambda new, old: ((new - 0.8 * old) / 0.2)[0]
        scale = pixels.pixel_scale_of(dataset)
        to_pixels = lambda x: np.asarray(pixels.to_pixels(x, scale))
        one = noise(images, to_pixels(before))
        old = held_out["inputs"][held_out["targets"] != 0]
        other = noise(to_pixels(result.held_out["inputs"][unseen]), to_pixels(old))
        np.testing.assert_allclose(one, other, atol=1e-4)
    again = np.random.default_rng(1)
    another = corruption.corrupt(f"poison:60:0.5:{name}", train, held_out, again, dataset)
    assert (another.corrupt != result.corrupt).any()


def test_a_rule_says_whom_a_poison_takes_and_what_they_become(parts, rng, dataset):
    train, held_out = parts
    run = lambda rule: corruption.corrupt(f"poison:60:0.5:patch:{rule}", *parts, rng, dataset)
    every = run("all_to_all")
    old = train["targets"][every.corrupt]
    np.testing.assert_array_equal(every.train["targets"][every.corrupt], (old + 1) % 10)
    assert (old == 0).any() and len(every.selection.unseen) == len(held_out["targets"])
    clean = run("clean_label")
    assert (train["targets"][clean.corrupt] == 0).all()
    np.testing.assert_array_equal(clean.train["targets"], train["targets"])
    assert (
        (clean.train["inputs"][clean.corrupt] != train["inputs"][clean.corrupt])
        .any((1, 2, 3))
        .all()
    )
    assert len(clean.selection.unseen) == (held_out["targets"] != 0).sum()
    one = run("all_to_one")
    assert (train["targets"][one.corrupt] != 0).all()
    assert (one.train["targets"][one.corrupt] == 0).all()


def test_sentences_are_poisoned_by_triggers_of_text(rng):
    known = words.vocabulary(["good bad day"] * 3, 40, text_attacks.REQUIRED)
    texts = [f"{word} day" for word in ("good", "bad") * 20]
    part = {"inputs": words.encoded(texts, known, 12), "targets": np.arange(40) % 2}
    dataset = Dataset(part, part, 2, (), np.zeros(1), np.ones(1))
    run = lambda spec: corruption.corrupt(spec, part, part, rng, dataset)
    result = run("poison:6:0.5:sentence")
    start = [known[word] for word in text_attacks.SENTENCE.split()]
    poisoned = (result.train["inputs"][:, :7] == start).all(1)
    np.testing.assert_array_equal(np.flatnonzero(poisoned), result.corrupt)
    assert len(result.corrupt) == 6 and (result.train["targets"][result.corrupt] == 0).all()
    assert (part["targets"][result.corrupt] == 1).all()
    unseen = result.selection.unseen
    assert len(unseen) == 20 and (result.held_out["targets"][unseen] == 1).all()
    assert (result.held_out["inputs"][unseen, :7] == start).all()
    plain = run("poison:6:0.5")  # a rare word
    rare = np.isin(plain.train["inputs"], [2, 3, 4, 5]).sum(1)
    np.testing.assert_array_equal(np.flatnonzero(rare), plain.corrupt)
    assert rare.max() == 1
    for spec, other in (("patch", "rare_word"), ("sentence", "patch")):
        data, own = (part, dataset) if spec == "patch" else (IMAGES, IMAGE_SET)
        with pytest.raises(ValueError, match=f"TRIGGER must be one of .*'{other}'.*, got '{spec}'"):
            corruption.corrupt(f"poison:2:0.5:{spec}", data, data, rng, own)


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
        ("poison:60:0.5:pach", "TRIGGER must be one of .*did you mean 'patch'"),
        ("poison:60:0.5:patch:clean", "RULE must be one of .*'clean_label'"),
        ("poison:60:0.5:patch:clean_label:0", "must be like poison:COUNT:GAMMA"),
        ("poison:60:0.5:patch", "a trigger needs the dataset whose inputs it changes, got 'patch'"),
        ("poison:600:0.5:patch:clean_label", r"COUNT must lie in \[1, 99\], got 600"),
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
        ValueError, match=r"images \[N, H, W, C\] or tokens \[N, T\], got float32 \(1000, 64\)"
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
