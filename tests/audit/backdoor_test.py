"""Audits for backdoors, against closed forms, enumeration and SciPy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from unlearnjax.audit import backdoor

SIDE, CLASSES, LABEL, PIXEL = 4, 3, 1, 9


def linear(strength=30.0):
    """Class 1 wins where one pixel is lit, and else hardly anything does."""
    kernel = np.random.default_rng(0).normal(0, 0.3, (SIDE * SIDE, CLASSES))
    kernel[PIXEL] = 0
    kernel[PIXEL, LABEL] = strength
    return kernel


def predictor(kernel):
    kernel = jnp.asarray(kernel, jnp.float32)
    return lambda images: images.reshape(len(images), -1) @ kernel


def images(size=12, seed=1):
    found = np.random.default_rng(seed).uniform(0, 1, (size, SIDE, SIDE, 1)).astype(np.float32)
    found.reshape(size, -1)[:, PIXEL] = 0  # nobody has the trigger
    return jnp.asarray(found)


@pytest.fixture(scope="module", params=backdoor.FORMS)
def found(request):
    options = {"adaptive": {"num_epochs": 60}, "fixed": {"num_epochs": 400, "learning_rate": 0.02}}
    search = jax.jit(
        lambda: backdoor.recover_triggers(
            predictor(linear()),
            images(),
            CLASSES,
            jax.random.key(0),
            form=request.param,
            batch_size=12,
            **options[request.param],
        )
    )
    return request.param, search()


def test_of_a_linear_model_the_recovered_trigger_is_the_pixel_that_decides(found):
    """No other single pixel does, by enumeration, and the smallest mask is that of its class."""
    _, recovered = found
    kernel, pictures = linear(), np.asarray(images()).reshape(-1, SIDE * SIDE)
    alone = []
    for pixel in range(SIDE * SIDE):
        for value in (0.0, 1.0):
            changed = pictures.copy()
            changed[:, pixel] = value
            if ((changed @ kernel).argmax(1) == LABEL).all():
                alone.append((pixel, value))
    assert alone == [(PIXEL, 1.0)]
    mask = np.asarray(recovered.mask[LABEL]).ravel()
    assert mask.argmax() == PIXEL and mask[PIXEL] > 5 * np.delete(mask, PIXEL).max()
    assert np.asarray(recovered.pattern[LABEL]).ravel()[PIXEL] > 0.8
    assert recovered.success[LABEL] == 1
    assert np.asarray(recovered.norm).argmin() == LABEL
    np.testing.assert_allclose(recovered.norm[LABEL], mask.sum(), rtol=1e-5)
    for x in (recovered.mask, recovered.pattern):
        assert 0 <= x.min() <= x.max() <= 1


def test_classes_are_searched_at_once_or_one_after_another_alike():
    options = {"num_epochs": 2, "batch_size": 5}
    args = predictor(linear(3.0)), images(), CLASSES, jax.random.key(3)
    one, other = (backdoor.recover_triggers(*args, axis=a, **options) for a in ("map", "vmap"))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    alone = backdoor.recover_trigger(args[0], args[1], 2, args[3], **options)
    np.testing.assert_allclose(alone.mask, one.mask[2], atol=1e-6)


def fixed_by_hand(kernel, pictures, label, mask, pattern, rate, weight, num_steps):
    """Full-batch Adam in NumPy, clipped after each step."""
    moments = [[np.zeros_like(x), np.zeros_like(x)] for x in (mask, pattern)]
    for step in range(1, num_steps + 1):
        stamped = (1 - mask) * pictures + mask * pattern
        error = scipy.special.softmax(stamped @ kernel, 1) - np.eye(CLASSES)[label]
        slope = error @ kernel.T / len(pictures)
        slopes = [(slope * (pattern - pictures)).sum(0) + weight, (slope * mask).sum(0)]
        new = []
        for x, (first, second), g in zip((mask, pattern), moments, slopes, strict=True):
            first[:] = 0.9 * first + 0.1 * g
            second[:] = 0.999 * second + 0.001 * g**2
            move = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            new.append(np.clip(x - rate * move, 0, 1))
        mask, pattern = new
    return mask, pattern


def test_the_fixed_form_is_projected_adam_on_its_objective():
    """From what a search of no strength to move begins with."""
    kernel, pictures = linear(3.0), np.asarray(images(), np.float64).reshape(12, -1)
    args = predictor(kernel), images(), LABEL, jax.random.key(5)
    still = backdoor.recover_trigger(
        *args, form="fixed", num_epochs=1, learning_rate=1e-12, batch_size=12
    )
    start = [np.asarray(x, np.float64).ravel() for x in (still.mask, still.pattern)]
    assert min(x.std() for x in start) > 0.2  # uniform
    # The other form starts from the same, drawn a hundredth towards the middle.
    other = backdoor.recover_trigger(*args, num_epochs=1, learning_rate=1e-12, batch_size=12)
    np.testing.assert_allclose(np.ravel(other.mask) - 0.5, 0.99 * (start[0] - 0.5), atol=1e-5)
    options = {"learning_rate": 0.05, "weight": 0.3, "num_epochs": 7, "batch_size": 12}
    recovered = backdoor.recover_trigger(*args, form="fixed", **options)
    mask, pattern = fixed_by_hand(kernel, pictures, LABEL, *start, 0.05, 0.3, 7)
    np.testing.assert_allclose(np.asarray(recovered.mask).ravel(), mask, atol=1e-4)
    np.testing.assert_allclose(np.asarray(recovered.pattern).ravel(), pattern, atol=1e-4)


def test_the_adaptive_weight_follows_success():
    """Where every image is of the class already, the weight grows and the mask goes to nothing."""
    easy = predictor(np.tile(np.eye(CLASSES)[LABEL], (SIDE * SIDE, 1)))
    args = easy, images(), LABEL, jax.random.key(0)
    norms = [
        float(
            backdoor.recover_trigger(
                *args, num_epochs=40, batch_size=12, weight=1e-6, patience=patience
            ).norm
        )
        for patience in (1, 40)
    ]
    assert norms[0] < 0.1 * norms[1]
    # Of a class that is never reached the last mask is returned, and nothing counts as success.
    never = backdoor.recover_trigger(
        predictor(np.tile([0.0, 0.0, -1.0], (SIDE * SIDE, 1))), images(), 2, jax.random.key(0),
        num_epochs=3, batch_size=12,
    )  # fmt: skip
    assert never.success == 0 and jnp.isfinite(never.norm)


def test_what_is_padded_counts_for_nothing():
    """Images that are all alike, in batches of 5, 5 and 2: as three steps on one of them."""
    kernel, alike = linear(3.0), jnp.tile(images(1), (12, 1, 1, 1))
    args = predictor(kernel), alike, LABEL, jax.random.key(5)
    options = {"form": "fixed", "num_epochs": 2, "batch_size": 5, "weight": 0.3}
    still = backdoor.recover_trigger(*args, learning_rate=1e-12, **options)
    start = [np.asarray(x, np.float64).ravel() for x in (still.mask, still.pattern)]
    recovered = backdoor.recover_trigger(*args, learning_rate=0.05, **options)
    picture = np.asarray(alike[:1], np.float64).reshape(1, -1)
    mask, pattern = fixed_by_hand(kernel, picture, LABEL, *start, 0.05, 0.3, 2 * 3)
    np.testing.assert_allclose(np.asarray(recovered.mask).ravel(), mask, atol=1e-4)
    np.testing.assert_allclose(np.asarray(recovered.pattern).ravel(), pattern, atol=1e-4)


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("reached", [True, False])
def test_the_adaptive_form_is_adam_with_a_weight_that_follows_success(reached, patience):
    """Of a model that says one class whatever it sees, so that the norm alone has a slope."""
    said = jnp.where(jnp.arange(CLASSES) == LABEL, 9.0, 0.0)
    search = jax.jit(
        lambda rate, label: backdoor.recover_trigger(
            lambda x: jnp.tile(said, (len(x), 1)) + 0 * x.sum(), images(), label, jax.random.key(2),
            num_epochs=8, batch_size=12, patience=patience, learning_rate=rate, weight=0.5,
        )
    )  # fmt: skip
    label = LABEL if reached else 2
    free = np.arctanh(2 * np.asarray(search(1e-12, label).mask, np.float64) - 1)
    weight, first, second = 0.5, 0.0, 0.0
    for epoch in range(1, 9):
        slope = weight * (1 - np.tanh(free) ** 2) / 2
        first, second = 0.5 * first + 0.5 * slope, 0.9 * second + 0.1 * slope**2
        move = first / (1 - 0.5**epoch) / (np.sqrt(second / (1 - 0.9**epoch)) + 1e-8)
        free = free - 0.1 * move
        if epoch % patience == 0:
            weight *= 2.0 if reached else 2**-1.5
    found = search(0.1, label)
    assert found.success == reached
    np.testing.assert_allclose(found.mask, np.tanh(free) / 2 + 0.5, atol=2e-4)


def test_defaults_are_those_published():
    constants = backdoor.SHARE_VARIANCE, backdoor.ANOMALY_INDEX, backdoor.MARGIN_P_VALUE
    assert constants == (0.01, 2.0, 0.05)
    margin, search = (
        {name: own.default for name, own in inspect.signature(f).parameters.items()}
        for f in (backdoor.max_margin, backdoor.recover_trigger)
    )
    published = {"num_images": 30, "num_steps": 3000, "learning_rate": 0.01, "tolerance": 1e-5}
    assert published.items() <= margin.items()
    assert {"least_success": 0.98, "patience": 5, "batch_size": 64}.items() <= search.items()


@pytest.mark.parametrize(
    ("form", "published"),
    [
        ("adaptive", {"num_epochs": 80, "learning_rate": 0.1, "weight": 1e-3}),
        ("fixed", {"num_epochs": 20, "learning_rate": 5e-3, "weight": 0.01}),
    ],
)
def test_each_form_has_the_defaults_of_its_code(form, published):
    search = lambda **options: backdoor.recover_trigger(
        predictor(linear(3.0)), images(4), LABEL, jax.random.key(0), form=form, **options
    )
    for usual, told in zip(search(), search(**published), strict=True):
        np.testing.assert_array_equal(usual, told)


def test_shares_and_attack_success_are_counts():
    predictions = np.array([0, 2, 2, 1, 2])
    np.testing.assert_allclose(backdoor.class_shares(predictions, 4), [0.2, 0.2, 0.6, 0])
    targets = np.array([2, 2, 0, 0, 1])
    # Of class 2 are the first two; of the others two in three are taken for it.
    assert backdoor.attack_success(predictions, targets, 2) == pytest.approx(2 / 3)
    # All-to-all: the next class; the last example's is 2.
    assert backdoor.attack_success(predictions, targets, (targets + 1) % 3) == pytest.approx(3 / 5)
    with pytest.raises(ValueError, match="predictions must be classes 0 to 1"):
        backdoor.class_shares(predictions, 2)
    with pytest.raises(ValueError, match="at least one example"):
        backdoor.class_shares(predictions[:0], 2)
    with pytest.raises(ValueError, match=r"\[N\] class numbers, got float64"):
        backdoor.class_shares(predictions / 2, 4)
    with pytest.raises(ValueError, match="of other classes than the wanted"):
        backdoor.attack_success(predictions[:2], np.array([2, 2]), 2)
    with pytest.raises(ValueError, match=r"must be \[N\], got"):
        backdoor.attack_success(predictions, targets[:2], 2)


def test_the_anomaly_index_is_that_of_the_paper():
    norms = np.array([10, 11, 9, 10, 2.0])
    np.testing.assert_allclose(
        backdoor.anomaly_index(norms), np.abs(norms - 10) / 1.4826, rtol=1e-6
    )
    assert backdoor.flagged(norms).tolist() == [False] * 4 + [True]
    assert not backdoor.flagged(np.array([10, 11, 9, 10, 18.0])).any()  # large is no trigger
    assert backdoor.flagged(norms, 5.3).any() and not backdoor.flagged(norms, 5.5).any()
    # Of an even number the median is between the middle two.
    even = np.array([1.0, 2, 4, 8])
    np.testing.assert_allclose(
        backdoor.anomaly_index(even), [2, 1, 1, 5] / np.float64(1.5 * 1.4826)
    )
    with pytest.raises(ValueError, match="norms must differ"):
        backdoor.anomaly_index(np.array([1, 1, 1, 1, 5.0]))


def test_margins_of_a_linear_model_reach_their_linear_program():
    """With two classes the best image has 1 where the difference of weights is positive."""
    kernel = linear(2.0)[:, :2]
    margins = backdoor.max_margin(
        predictor(kernel), (SIDE, SIDE, 1), 2, jax.random.key(0), num_steps=400, learning_rate=0.1
    )
    difference = kernel[:, 0] - kernel[:, 1]
    best = [np.maximum(difference, 0).sum(), np.maximum(-difference, 0).sum()]
    np.testing.assert_allclose(margins, best, rtol=1e-5)
    # Against the best of the others, not their sum; and it stops where nothing changes.
    kernel = linear(2.0)
    options = {"num_steps": 1, "learning_rate": 1e-12, "num_images": 2}
    start = np.asarray(jax.random.uniform(jax.random.key(1), (2, SIDE, SIDE, 1))).reshape(2, -1)
    found = backdoor.max_margin(
        predictor(kernel), (SIDE, SIDE, 1), CLASSES, jax.random.key(1), **options
    )
    logits = start @ kernel
    expected = [(logits[:, c] - np.delete(logits, c, 1).max(1)).max() for c in range(CLASSES)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    lazy = backdoor.max_margin(
        predictor(kernel), (SIDE, SIDE, 1), CLASSES, jax.random.key(1), num_images=2,
        num_steps=500, learning_rate=0.1, tolerance=1e9,
    )  # fmt: skip
    one = backdoor.max_margin(
        predictor(kernel), (SIDE, SIDE, 1), CLASSES, jax.random.key(1), num_images=2,
        num_steps=1, learning_rate=0.1,
    )  # fmt: skip
    np.testing.assert_array_equal(lazy, one)


def test_margins_are_those_of_an_ascent_that_stops_by_its_relative_change():
    """Step by step in NumPy, of two classes, by the default rate."""
    kernel, tolerance = np.float64(linear(2.0))[:, :2], 0.03
    key, number = jax.random.key(3), 3
    found = backdoor.max_margin(
        predictor(kernel), (SIDE, SIDE, 1), 2, key, num_images=number, tolerance=tolerance
    )
    start = np.asarray(jax.random.uniform(key, (number, SIDE, SIDE, 1)), np.float64)
    for label in range(2):
        slope = kernel[:, label] - kernel[:, 1 - label]
        x, before, steps = start.reshape(number, -1), -1000.0, 0
        while True:
            value = (np.clip(x, 0, 1) @ slope).sum()
            x, steps = x + 0.01 * slope * ((x > 0) & (x < 1)), steps + 1
            if abs(value - before) < tolerance * abs(before):
                break
            before = value
        assert 2 < steps < 100
        expected = (np.clip(x, 0, 1) @ slope).max()
        assert float(found[label]) == pytest.approx(expected, rel=1e-4)


def test_the_p_value_is_of_the_gamma_distribution_of_the_others():
    margins = np.array([3.0, 2.5, 3.2, 9.0, 2.8, 3.1])
    others = np.delete(margins, 3)
    fitted = scipy.stats.gamma(*scipy.stats.gamma.fit(others))
    assert backdoor.margin_p_value(margins) == pytest.approx(1 - fitted.cdf(9.0) ** 6, abs=1e-9)
    assert backdoor.margin_p_value(margins) < 0.05
    assert backdoor.margin_p_value(np.array([3.0, 2.5, 3.2, 3.3, 2.8, 3.1])) > 0.05


def test_entropies_are_those_of_overlays():
    kernel, pictures, clean = linear(3.0), images(3), images(5, seed=2)
    found = backdoor.strip_entropy(predictor(kernel), pictures, clean, jax.random.key(0))
    for number, image in enumerate(np.asarray(pictures)):
        over = np.clip(image + np.asarray(clean), 0, 1).reshape(5, -1)
        probs = scipy.special.softmax(over @ kernel, 1)
        expected = scipy.stats.entropy(probs, axis=1).mean()
        assert float(found[number]) == pytest.approx(expected, rel=1e-4)
    few = backdoor.strip_entropy(
        predictor(kernel), pictures, clean, jax.random.key(0), num_overlays=2
    )
    assert not np.allclose(few, found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "free"}, "form must be one of"),
        ({"num_epochs": 0}, "num_epochs must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"weight": -1.0}, "weight must be >= 0"),
        ({"least_success": 1.5}, "least_success must lie in"),
        ({"patience": 0}, "patience must be >= 1"),
    ],
)
def test_bad_searches_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        backdoor.recover_trigger(predictor(linear()), images(), 0, jax.random.key(0), **options)


def test_what_are_no_pixels_is_refused():
    args = (0, jax.random.key(0))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got 0.0 to 2"):
        backdoor.recover_trigger(predictor(linear()), images().at[0, 0, 0].set(2.0), *args)
    with pytest.raises(ValueError, match=r"must be \[N, H, W, C\], got \(12, 16\)"):
        backdoor.recover_trigger(predictor(linear()), images().reshape(12, -1), *args)
    with pytest.raises(ValueError, match="axis must be one of"):
        backdoor.recover_triggers(predictor(linear()), images(), 3, args[1], axis="pmap")
    with pytest.raises(ValueError, match="num_classes must be the model's 3, got 5"):
        backdoor.recover_triggers(predictor(linear()), images(), 5, args[1])
    with pytest.raises(ValueError, match="label must be a class of the model, below 3, got 3"):
        backdoor.recover_trigger(predictor(linear()), images(), 3, args[1])
    with pytest.raises(ValueError, match=r"images must be at least one, got \(0,"):
        backdoor.recover_trigger(predictor(linear()), images()[:0], *args)
    for some, clean in (
        (images(), images()[:, :2]),
        (images()[:0], images()),
        (images(), images()[:0]),
    ):
        with pytest.raises(ValueError, match="images and clean must be some images of one shape"):
            backdoor.strip_entropy(predictor(linear()), some, clean, args[1])
    for alike in (np.zeros(10), np.array([1.0] * 9 + [5])):
        with pytest.raises(ValueError, match="margins must differ, got"):
            backdoor.margin_p_value(alike)
    with pytest.raises(ValueError, match="num_overlays must be >= 1"):
        backdoor.strip_entropy(predictor(linear()), images(), images(), args[1], num_overlays=0)
    with pytest.raises(ValueError, match="num_classes must be >= 2"):
        backdoor.max_margin(predictor(linear()), (SIDE, SIDE, 1), 1, args[1])
