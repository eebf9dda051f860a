import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning import linear
from unlearnjax import data as data_lib
from unlearnjax import models, tasks, training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning import objectives

KEY = jax.random.key(0)


def binary():
    """Two classes by `x @ w`: the margin of each example, and its label of -1 or 1."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=5)
    batch = {
        "inputs": jnp.asarray(rng.normal(size=(7, 5)), jnp.float32),
        "targets": jnp.asarray(rng.integers(2, size=7), jnp.int32),
        "index": jnp.arange(7),
        "weight": jnp.ones(7),
    }
    columns = jnp.asarray(np.stack([-w / 2, w / 2], axis=1), jnp.float32)
    sign = 2 * np.asarray(batch["targets"]) - 1
    return {"params": {"w": columns}}, batch, w, sign


def losses(variables, batch):
    return np.asarray(linear.TASK.loss(linear.TASK.apply(variables, batch, None, False)[0], batch))


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        ("linf", {"num_steps": 1, "step_size": 0.3}),
        ("linf", {"num_steps": 5, "step_size": 0.2, "random_start": True}),
        ("linf", {"num_steps": 3}),
        ("l2", {"num_steps": 1, "step_size": 0.3}),
        ("l2", {"num_steps": 40, "step_size": 0.1, "random_start": True}),
    ],
)
def test_attacks_of_a_linear_model_reach_the_closed_form(norm, options):
    """The loss is `log(1 + exp(-margin))`; the margin loses the radius times the dual norm."""
    variables, batch, w, sign = binary()
    attack = training.pgd(linear.TASK, norm=norm, radius=0.3, **options)
    attacked = attack(KEY, variables, batch)
    dual = np.abs(w).sum() if norm == "linf" else np.linalg.norm(w)
    margin = sign * (np.asarray(batch["inputs"], np.float64) @ w) - 0.3 * dual
    rtol = 1e-3 if norm == "l2" and options["num_steps"] > 1 else 1e-5
    np.testing.assert_allclose(losses(variables, attacked), np.log1p(np.exp(-margin)), rtol=rtol)
    assert {k for k in batch if attacked[k] is not batch[k]} == {"inputs"}


def curved():
    """A small network on images of two channels, and its bounds, per channel."""
    rng = np.random.default_rng(0)
    batch = {
        "inputs": jnp.asarray(rng.uniform(-1, 1, size=(6, 3, 3, 2)), jnp.float32),
        "targets": jnp.asarray(rng.integers(10, size=6), jnp.int32),
        "index": jnp.arange(6),
    }
    task = problems.mlp((8,))
    return task, problems.init(task, batch), batch


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_attacked_inputs_lie_in_the_ball_and_in_the_bounds(norm, random_start):
    task, variables, batch = curved()
    radius = jnp.array([0.2, 0.4]) if norm == "linf" else 0.4
    low, high = jnp.array([-0.9, -1.0]), jnp.array([0.5, 0.8])  # some inputs lie outside
    attack = training.pgd(
        task,
        norm=norm,
        radius=radius,
        num_steps=7,
        step_size=0.1,
        random_start=random_start,
        bounds=(low, high),
    )
    before = np.asarray(batch["inputs"])
    after = np.asarray(attack(KEY, variables, batch)["inputs"])
    change = after - before
    if norm == "linf":
        assert (np.abs(change) <= np.asarray(radius) + 1e-6).all()
    else:
        assert (np.linalg.norm(change.reshape(6, -1), axis=1) <= 0.4 + 1e-6).all()
    low, high = np.asarray(low), np.asarray(high)
    assert (after >= np.minimum(low, before)).all() and (after <= np.maximum(high, before)).all()
    outside = (before < low) | (before > high)
    assert outside.any() and (after == high).any()
    apply = lambda x: task.apply(variables, {**batch, "inputs": x}, None, False)[0]
    raised, own = (task.loss(apply(x), batch) for x in (after, before))
    assert float(raised.mean() - own.mean()) > 0.1


def test_more_steps_never_lower_the_loss_of_a_convex_model():
    """From 0 and in the ball; steps of the default size reach its edge."""
    variables, batch, *_ = binary()
    for norm in ("linf", "l2"):
        attacks = [training.pgd(linear.TASK, norm=norm, radius=0.3, num_steps=n) for n in (1, 2, 8)]
        values = [losses(variables, attack(KEY, variables, batch)) for attack in attacks]
        assert (values[1] >= values[0] - 1e-6).all() and (values[2] >= values[1] - 1e-6).all()


def test_the_default_step_is_one_and_a_half_radii_over_the_number_of_steps():
    variables, batch, *_ = binary()
    moved = training.pgd(linear.TASK, radius=0.4, num_steps=4, bounds=(-9.0, 9.0))
    own = training.pgd(linear.TASK, radius=0.4, num_steps=4, step_size=0.15)
    one = training.pgd(linear.TASK, radius=9.0, num_steps=1, step_size=0.15)
    results = [np.asarray(f(KEY, variables, batch)["inputs"]) for f in (moved, own, one)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
    np.testing.assert_allclose(np.abs(results[2] - batch["inputs"]), 0.15, rtol=1e-5)


def test_random_starts_are_uniform_in_the_ball_and_follow_the_example(monkeypatch):
    """With steps of no size the start is all that there is; the moments are those of a ball."""
    n, d = 4000, 3
    batch = {
        "inputs": jnp.zeros((n, d)),
        "targets": jnp.zeros(n, jnp.int32),
        "index": jnp.arange(n),
    }
    given = {"params": {"w": jnp.ones((d, 3))}}

    def start(norm, batch, rng=KEY):
        options = {"radius": 2.0, "num_steps": 1, "step_size": 0.0, "random_start": True}
        attack = training.pgd(linear.TASK, norm=norm, **options)
        return np.asarray(attack(rng, given, batch)["inputs"])

    x = start("linf", batch)
    assert np.abs(x).max() <= 2 and np.abs(x.mean(0)).max() < 0.1
    np.testing.assert_allclose((x**2).mean(0), 4 / 3, rtol=0.1)
    x = start("l2", batch)
    lengths = np.linalg.norm(x, axis=1)
    assert lengths.max() <= 2 + 1e-6 and np.abs(x.mean(0)).max() < 0.1
    np.testing.assert_allclose(lengths.mean(), 2 * d / (d + 1), rtol=0.03)
    few = {k: v[jnp.array([7, 3])] for k, v in batch.items()}
    np.testing.assert_array_equal(start("l2", few), x[[7, 3]])
    assert (start("l2", batch, jax.random.key(1)) != x).all()
    bare = {k: v for k, v in few.items() if k != "index"}
    assert (start("l2", bare)[0] != start("l2", bare)[1]).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_inputs_of_few_digits_keep_their_type_and_their_ball(dtype):
    """Raw pixels, whose squares overflow in the type as those of flat slopes vanish."""
    variables, batch, w, sign = binary()
    inputs = (jnp.abs(batch["inputs"]) * 100).astype(dtype)
    attack = training.pgd(linear.TASK, norm="l2", radius=300.0, num_steps=1, step_size=300.0)
    tame = {"params": {"w": 1e-3 * variables["params"]["w"]}}
    attacked = attack(KEY, tame, {**batch, "inputs": inputs})["inputs"]
    assert attacked.dtype == dtype
    change = np.asarray(attacked, np.float64) - np.asarray(inputs, np.float64)
    expected = -300 * sign[:, None] * w / np.linalg.norm(w)
    # The slope is of few digits too; `x + d` is rounded towards x, by less than a number's digits.
    eps = float(jnp.finfo(dtype).eps)
    inputs, attacked = (np.abs(np.asarray(x, np.float64)) for x in (inputs, attacked))
    assert (np.abs(change - expected) <= eps * (np.abs(expected) + inputs + attacked)).all()
    assert (np.linalg.norm(change, axis=1) <= 300 * (1 + 1e-6)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("dtype", "scale", "radius"),
    [
        (jnp.float32, 255.0, 8 / 255),
        (jnp.bfloat16, 1.0, 8 / 255),
        (jnp.float16, 1.0, 8 / 255),
        (jnp.bfloat16, 255.0, 8.0),
    ],
)
def test_no_input_leaves_its_ball_whatever_its_type(norm, dtype, scale, radius):
    variables, batch, *_ = binary()
    inputs = (jax.random.uniform(KEY, (7, 5)) * scale).astype(dtype)
    attack = training.pgd(
        linear.TASK,
        norm=norm,
        radius=radius,
        num_steps=10,
        random_start=True,
        bounds=(0.0, scale),
    )
    attacked = attack(KEY, variables, {**batch, "inputs": inputs})["inputs"]
    assert attacked.dtype == dtype
    attacked, inputs = (np.asarray(x, np.float64) for x in (attacked, inputs))
    change = attacked - inputs
    sizes = np.abs(change) if norm == "linf" else np.linalg.norm(change, axis=1)
    assert (sizes <= radius * (1 + 1e-6)).all() and sizes.max() > 0.5 * radius
    assert attacked.min() >= 0 and attacked.max() <= scale


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_ball_of_radius_0_is_plain_training_bit_for_bit(digits, norm):
    """With dropout and augmentation, whose draws must stay as they are."""
    data = {k: jnp.asarray(v[:20]) for k, v in digits.items()}
    augment = lambda rng, example: data_lib.pad_crop_flip(rng, example, padding=1)
    task = tasks.augmented(problems.linen(models.MLP(num_classes=10, hidden=(3,))), augment)
    attack = training.pgd(task, norm=norm, radius=0.0, num_steps=2, random_start=True)
    adversarial = training.perturbed(training.supervised(task), attack)
    options = {"num_epochs": 2, "batch_size": 8}
    runs = [
        jax.jit(
            lambda rng, loss_fn=loss_fn: training.fit(
                training.descent(task, optax.adam(0.01), loss_fn),
                data,
                jnp.arange(20),
                rng,
                **options,
            )[0]
        )(KEY)
        for loss_fn in (None, adversarial)
    ]
    problems.assert_trees_equal(runs[1], runs[0])


def counting_task():
    """Counts its calls in training mode; its outputs there are others."""

    def apply(variables, batch, rng, train):
        logits = batch["inputs"] @ variables["params"]["w"]
        outputs = {"logits": jnp.where(train, -logits, logits)}
        return outputs, {**variables, "calls": variables["calls"] + (1 if train else 10)}

    return linear.TASK._replace(apply=apply)


def test_the_attack_is_in_evaluation_mode_and_updates_nothing_and_has_no_gradient():
    """A step's gradient is that of the loss at the attacked inputs, held fixed."""
    task = counting_task()
    variables, batch, w, sign = binary()
    variables = {**variables, "calls": jnp.zeros((), jnp.int32)}
    attack = training.pgd(task, radius=0.3, num_steps=1, step_size=0.3)
    loss_fn = training.perturbed(training.supervised(task), attack)
    inputs = np.asarray(batch["inputs"]) - 0.3 * sign[:, None] * np.sign(w)  # evaluation's worst
    moved = {**batch, "inputs": jnp.asarray(inputs)}
    actual, (_, updated) = loss_fn(variables, batch, KEY)
    expected, _ = training.supervised(task)(variables, moved, KEY)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert int(updated["calls"]) == 1

    def slope(loss_fn, batch):
        total = lambda params: loss_fn({**variables, "params": params}, batch, KEY)[0].sum()
        return jax.grad(total)(variables["params"])

    problems.assert_trees_close(slope(loss_fn, batch), slope(training.supervised(task), moved))
    # Nor through what perturbs: inputs that are a function of the parameters.
    own = lambda rng, v, b: {**b, "inputs": b["inputs"] * v["params"]["w"].sum()}
    fixed = {**batch, "inputs": batch["inputs"] * variables["params"]["w"].sum()}
    through = slope(training.perturbed(training.supervised(task), own), batch)
    problems.assert_trees_close(through, slope(training.supervised(task), fixed))


def test_what_is_attacked_is_what_is_drawn():
    """A draw that mirrors the inputs by the example's key: the attack sees the same one."""
    variables, batch, w, sign = binary()
    flip = lambda rng, x: {**x, "inputs": x["inputs"] * jax.random.rademacher(rng, (), float)}
    task = tasks.augmented(linear.TASK, flip)
    keyed = tasks.keyed(batch, jax.random.key(5))
    mirrored = np.asarray(tasks.drawn(task, keyed, True)["inputs"] / batch["inputs"])[:, :1]
    assert {-1.0, 1.0} == set(np.round(mirrored.ravel(), 3))
    for train, side in ((True, mirrored), (False, 1.0)):
        attack = training.pgd(task, radius=0.3, num_steps=1, step_size=0.3, train=train)
        change = attack(KEY, variables, keyed)["inputs"] - batch["inputs"]
        expected = -0.3 * sign[:, None] * np.sign(w) * side
        np.testing.assert_allclose(change, expected, rtol=1e-5)


def test_noise_is_gaussian_and_follows_the_example():
    inputs = jnp.full((2000, 3), 5.0)
    batch = {"inputs": inputs, "index": jnp.arange(2000), "targets": 1}
    noisy = training.gaussian(0.5)(KEY, None, batch)
    noise = np.asarray(noisy["inputs"]) - 5
    np.testing.assert_allclose(noise.std(0), 0.5, rtol=0.1)
    assert np.abs(noise.mean(0)).max() < 0.05 and noisy["targets"] == 1
    few = {"inputs": inputs[:2], "index": jnp.array([9, 4])}
    few_noise = training.gaussian(0.5)(KEY, None, few)["inputs"] - 5
    np.testing.assert_array_equal(few_noise, noise[[9, 4]])
    same = training.gaussian(0.0)(KEY, None, batch)["inputs"]
    np.testing.assert_array_equal(same, inputs)
    half = {**few, "inputs": few["inputs"].astype(jnp.bfloat16)}
    assert training.gaussian(0.5)(KEY, None, half)["inputs"].dtype == jnp.bfloat16


def test_pixels_have_the_radius_and_the_range_of_pixels():
    """Against the same attack with a radius and bounds per channel, of standardised inputs."""
    task, variables, batch = curved()
    mean, std = np.array([100.0, 20.0]), np.array([50.0, 80.0])
    make = lambda task: training.pgd(
        task, radius=0.1, num_steps=3, step_size=0.05, bounds=(0.2, 0.6)
    )
    pixels = training.in_pixels(make, task, mean, std, low=10.0, high=210.0)
    standard = lambda x: (10.0 + 200.0 * x - mean) / std
    same = training.pgd(
        task,
        radius=0.1 * 200 / std,
        num_steps=3,
        step_size=0.05 * 200 / std,
        bounds=(standard(0.2), standard(0.6)),
    )
    actual, expected = (f(KEY, variables, batch)["inputs"] for f in (pixels, same))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert (jnp.abs(actual - batch["inputs"]) > 0.1).any()
    none = training.in_pixels(lambda task: training.pgd(task, radius=0.0), task, mean, std)
    np.testing.assert_array_equal(none(KEY, variables, batch)["inputs"], batch["inputs"])
    stored = training.in_pixels(lambda task: training.gaussian(1.0), task, mean, std)
    noise = training.gaussian(1.0)(KEY, None, batch)["inputs"] - batch["inputs"]
    actual = stored(KEY, variables, batch)["inputs"] - batch["inputs"]
    np.testing.assert_allclose(actual, noise * 255 / std, atol=1e-4)  # stored from 0 to 255
    with pytest.raises(ValueError, match="low must be below high, got 1.0 and 1.0"):
        training.in_pixels(make, task, mean, std, low=1.0, high=1.0)


def test_what_is_drawn_and_what_is_lost_see_standardised_inputs_not_pixels():
    """A draw that cuts out to 0, the mean, and a loss that reads the inputs, by NumPy."""
    variables, batch, w, sign = binary()
    mean, std = np.array([100.0] * 5), np.array([50.0] * 5)
    cut = lambda rng, example: {**example, "inputs": example["inputs"].at[:3].set(0.0)}

    def loss(outputs, batch):  # pulls each input that is left away from 1
        del outputs
        return jnp.sum((batch["inputs"] - 1) ** 2, axis=-1)

    task = tasks.augmented(linear.TASK._replace(loss=loss), cut)
    keyed = tasks.keyed(batch, KEY)
    make = lambda task: training.pgd(task, radius=0.1, num_steps=1, step_size=0.1)
    attack = training.in_pixels(make, task, mean, std)
    change = attack(KEY, variables, keyed)["inputs"] - batch["inputs"]
    expected = 0.1 * 255 / 50 * np.sign(np.asarray(batch["inputs"]) - 1)
    expected[:, :3] = 0
    np.testing.assert_allclose(change, expected, atol=1e-5)
    seen = []
    training.in_pixels(lambda task: seen.append(task), task, mean, std)
    pixels = {**batch, "inputs": (batch["inputs"] * std + mean) / 255}
    drawn = jnp.asarray(tasks.drawn(seen[0], tasks.keyed(pixels, KEY), True)["inputs"])
    np.testing.assert_allclose(drawn[:, :3], 100 / 255, rtol=1e-5)
    np.testing.assert_allclose(drawn[:, 3:], pixels["inputs"][:, 3:], rtol=1e-4)
    reads = lambda *args: args[-1]["inputs"] if len(args) < 4 else args[2]["inputs"] * args[3]
    whole = task._replace(metrics=reads, divergence=reads, draw=None)
    training.in_pixels(lambda task: seen.append(task), whole, mean, std)
    assert seen[1].draw is None
    for actual in (seen[1].metrics({}, pixels), seen[1].divergence({}, {}, pixels, 2.0) / 2):
        np.testing.assert_allclose(actual, batch["inputs"], atol=1e-4)


def test_an_unlearner_learns_from_attacked_examples():
    """One step of fine-tuning by `descend`, on NumPy's worst inputs."""
    variables, batch, w, sign = binary()
    plain = objectives.combine(retain=[(1.0, objectives.task_loss)])

    def objective(task, teachers):
        attack = training.pgd(task, radius=0.3, num_steps=1, step_size=0.3, train=False)
        return training.perturbed(plain(task, teachers), attack)

    options = {"over": "retain", "num_epochs": 1, "batch_size": 7}
    method = unlearning.descend(objective, optax.sgd(0.5), **options)
    data = {k: batch[k] for k in ("inputs", "targets")}
    model, _ = method.update(KEY, linear.TASK, variables, (), Request(None, data))
    x = np.asarray(batch["inputs"], np.float64) - 0.3 * sign[:, None] * np.sign(w)
    probs = 1 / (1 + np.exp(sign * (x @ w)))  # of the wrong class
    slope = -(x * (sign * probs)[:, None]).mean(0)
    before = np.asarray(variables["params"]["w"], np.float64)
    expected = before - 0.5 * np.stack([-slope, slope], axis=1)
    np.testing.assert_allclose(model["params"]["w"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "norm must be one of"),
        ({"radius": -1.0}, "radius must be >= 0"),
        ({"radius": np.array([0.1, -0.1])}, "radius must be >= 0"),
        ({"num_steps": 0}, "num_steps must be >= 1"),
        ({"num_steps": 2.5}, "num_steps must be a whole number, got 2.5"),
        ({"step_size": -0.1}, "step_size must be >= 0"),
        ({"norm": "l2", "radius": np.ones(2)}, "radius must be one number for norm 'l2'"),
        ({"bounds": (1.0, 1.0)}, "bounds must be .lowest, highest. inputs"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        training.pgd(linear.TASK, **{"radius": 0.1, **options})
    with pytest.raises(ValueError, match="sigma must be >= 0"):
        training.gaussian(-1.0)
    integers = {"inputs": jnp.ones((2, 4), jnp.uint8), "targets": jnp.zeros(2, jnp.int32)}
    for perturb in (
        training.pgd(linear.TASK, radius=0.1),
        training.gaussian(0.1),
        training.in_pixels(lambda task: training.gaussian(0.1), linear.TASK, 0.0, 1.0),
    ):
        with pytest.raises(ValueError, match="inputs must be floating-point"):
            perturb(KEY, {"params": {"w": jnp.ones((4, 3))}}, integers)
