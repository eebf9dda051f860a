"""A diffusion task, its unlearners and its training from a config."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import diffusion as config_lib
from configs import diffusion_sweep, unlearn
from experiments import sweep
from experiments.common import build, denoising
from experiments.common.fit import other_training
from unlearnjax import data as data_lib
from unlearnjax import diffusion, parallel, tasks, training
from unlearnjax.types import Request

SMALL = {
    "dit": {"width": 8, "depth": 1, "num_heads": 1},
    "unet": {"width": 4, "multiples": (1, 2), "num_blocks": 1, "attention": (4,)},
}


def toy(channels=1):
    """Twelve images of three classes."""
    images = np.random.default_rng(0).random((12, 8, 8, channels), np.float32)
    part = {"inputs": images, "targets": np.arange(12, dtype=np.int32) % 3}
    return data_lib.conditioned(data_lib.standardised(part, part, ("a", "b", "c")))


def config_of(arg=""):
    config = config_lib.get_config(arg)
    config.model.options.update(SMALL[config.model.name])
    return config


def test_the_process_is_that_of_the_options_and_the_data():
    config = config_of()
    config.task_options.update({"num_steps": 50, "schedule": "linear", "prediction": "epsilon"})
    found = denoising.process(config, toy(3))
    assert found.shape == (8, 8, 3) and found.null == 3 and found.prediction == "epsilon"
    expected = diffusion.linear(50).alphas_bar
    np.testing.assert_array_equal(found.schedule.alphas_bar, expected)
    config.task_options.schedule = "cosine"
    cosine = denoising.process(config, toy()).schedule.alphas_bar
    np.testing.assert_array_equal(cosine, diffusion.cosine(50).alphas_bar)
    config.task_options.schedule = "square"
    with pytest.raises(ValueError, match="task_options.schedule must be one of .*'square'"):
        denoising.process(config, toy())


def test_the_task_draws_as_the_config_says():
    config = config_of()
    config.evaluate.sampling.update({"guidance": 1.5, "num_steps": 3, "num_draws": 5})
    config.task_options.condition_dropout = 1.0
    dataset = toy()
    task = build.task(config, dataset)
    assert task.num_draws == 5
    batch = {name: jnp.asarray(value[:2]) for name, value in dataset.train.items()}
    variables = jax.jit(lambda: training.init_variables(task, batch, jax.random.key(0)))()
    moved = jax.tree.map(lambda x: x + 0.1, variables)  # at first it predicts nothing
    process = denoising.process(config, dataset)
    model = tasks.from_linen(build.model(config, dataset), denoising.ARGUMENTS)
    same = tasks.diffusion(model, process, sampler=diffusion.ddim(process, 3), guidance=1.5)
    rng = jax.random.key(1)
    drawn = lambda t: jax.jit(lambda v: tasks.generate(t, v, rng, batch)["images"])(moved)
    found, expected = drawn(task), drawn(same)
    np.testing.assert_array_equal(found, expected)
    assert (tasks.drawn(task, batch, train=True)["condition"] == process.null).all()


@pytest.mark.parametrize("name", ["salun_diffusion", "esd", "ssd", "retrain"])
def test_unlearners_that_have_a_process_are_given_the_tasks(name):
    config = config_of("digits,method=all")
    given = build.given(config, toy())
    assert given["process"].shape == (8, 8, 1)
    assert build.unlearner(name, config, 100, given).needs
    if name in ("salun_diffusion", "esd"):
        with pytest.raises(TypeError, match="process"):
            build.unlearner(name, config, 100)
    assert build.given(unlearn.get_config(), toy()) == {}


def test_every_method_of_the_config_can_be_built():
    config = config_of("digits,method=all")
    given = build.given(config, toy())
    assert len(config.methods) == 11
    for name in config.methods:
        build.unlearner(name, config, 100, given)


def training_of(**fields):
    config = config_of()
    config.train.update({"num_epochs": 10, "batch_size": 10, **fields})
    return build.training_optimizer(config, 40)


def rates(tx, number=40):
    """Of plain gradient descent: what each step subtracts."""
    params, state, found = jnp.zeros(()), tx.init(jnp.zeros(())), []
    for _ in range(number):
        update, state = tx.update(jnp.ones(()), state, params)
        params = params + update
        found.append(-float(update))
    return np.array(found), state


def test_the_rate_rises_in_a_twentieth_of_the_steps_and_falls_as_a_cosine():
    found, _ = rates(training_of(optimizer="sgd", learning_rate=0.5, average=None))
    rising = 0.5 * np.arange(2) / 2
    falling = 0.25 * (1 + np.cos(np.pi * np.arange(38) / 38))
    np.testing.assert_allclose(found, [*rising, *falling], atol=1e-7)
    short = training_of(optimizer="sgd", learning_rate=0.5, average=None, num_epochs=1)
    np.testing.assert_allclose(rates(short, 4)[0][0], 0.5)  # too short to rise


def test_an_average_of_the_parameters_becomes_the_model():
    tx = training_of(optimizer="sgd", learning_rate=0.5, schedule="constant", average=0.75)
    found, state = rates(tx, 3)
    np.testing.assert_allclose(found, 0.5)
    average = 0.0
    for position in (-0.5, -1.0, -1.5):
        average = 0.75 * average + 0.25 * position
    assert float(training.averages.average_of(state, jnp.zeros(()))) == pytest.approx(average)
    plain = training_of(average=None)
    assert isinstance(plain, optax.GradientTransformation)
    assert not training.averages.is_averaged(plain.init(jnp.zeros(())))


def test_originals_are_others_by_the_process_and_the_average_not_by_the_sampling():
    one, other = (config_of().to_dict() for _ in range(2))
    other["evaluate"]["sampling"]["guidance"] = 7.0
    assert other_training(one, other) == []
    other["task_options"]["prediction"] = "epsilon"
    other["train"]["average"] = 0.5
    changed = other_training(one, other)
    assert len(changed) == 2
    assert any("task_options.prediction" in line for line in changed)
    assert any("train.average" in line for line in changed)


CLASSES = np.arange(10)
RNG = jax.random.key(0)


def told(conditions):
    """A set of these."""
    return {"condition": np.array(conditions)}


@pytest.mark.parametrize(
    ("method", "anchor", "forget", "message"),
    [
        ("concept_ablation", 3, [3], "concept_ablation: anchor must not be forgotten itself"),
        ("score_forgetting", None, [3, 4], "score_forgetting: anchor must not be forgotten"),
        ("salun_diffusion", 3, [3], "salun_diffusion: anchor must differ from what is forgotten"),
        ("concept_ablation", 12, [3], "anchor must be a condition in 0..9, got 12"),
    ],
)
def test_what_a_class_becomes_is_checked_before_the_run(method, anchor, forget, message):
    config = config_of(f"digits,method={method}")
    dataset = toy()._replace(num_classes=10)
    given = build.given(config, dataset)
    retain = np.setdiff1d(CLASSES, forget)

    def validate(anchor):
        config.unlearn[method].anchor = anchor
        unlearners = {method: build.unlearner(method, config, 100, given)}
        denoising.validate(config, dataset, told(forget), told(retain), unlearners)

    with pytest.raises(ValueError, match=message):
        validate(anchor)
    validate(7)
    if anchor is not None and anchor < 10:  # said for every method at once
        config.unlearn.anchor = anchor
        with pytest.raises(ValueError, match=message):
            validate(7)


def test_saliency_lets_forgotten_classes_become_each_other():
    config, dataset = config_of("digits,method=salun_diffusion"), toy()._replace(num_classes=10)
    own = {
        "salun_diffusion": build.unlearner(
            "salun_diffusion", config, 100, build.given(config, dataset)
        )
    }
    denoising.validate(config, dataset, told([3, 4]), told([1, 2]), own)


@pytest.mark.parametrize("method", ["esd", "selective_amnesia", "score_forgetting"])
def test_methods_of_conditions_alone_refuse_classes_that_are_kept_in_part(method):
    config, dataset = config_of(f"digits,method={method}"), toy()._replace(num_classes=10)
    own = {method: build.unlearner(method, config, 100, build.given(config, dataset))}
    with pytest.raises(
        ValueError, match=rf"{method} forgets whole classes, but of \[3\] there are"
    ):
        denoising.validate(config, dataset, told([3, 5]), told([1, 3]), own)
    by_example = build.unlearner("ssd", config, 100)
    denoising.validate(config, dataset, told([3]), told([1, 3]), {"ssd": by_example})


def test_config_strings():
    config = config_lib.get_config
    assert config().methods == config_lib.CHOSEN and config().num_seeds == 1
    assert len(config_lib.CHOSEN) == 5 and config().dataset == "digits"
    quick = config("quick,seeds=2")
    assert quick.train == config().train and quick.num_seeds == 2
    assert quick.methods == config_lib.QUICK and set(quick.methods) < set(config().methods)
    # What another oracle scores is said in every run.
    for arg in ("quick", "digits,method=esd", "forget=random:0.1", "digits,method=all"):
        assert config(arg).methods.count("retrain") == 1
    assert config("digits,method=esd,seeds=3").methods == ("esd",)
    assert config("digits,method=ssd+retrain").methods == ("ssd", "retrain")
    assert config("digits,method=all").methods == tuple(config_lib.METHODS)
    assert config("forget=random:0.1").methods == config_lib.BY_EXAMPLE
    assert config("fashion_mnist").model.options.patch_size == 4
    assert config("cifar10,model=dit").model.options.patch_size == 2
    for arg, message in (
        ("nonsense=3", "config option must be one of"),
        ("digits,method=x", "method must be"),
    ):
        with pytest.raises(ValueError, match=message):
            config(arg)


def test_ascent_stops_at_what_a_model_loses_that_predicts_nothing():
    """The mean square of v, over draws of time and noise, of the digits; of noise it is 1."""
    images = data_lib.conditioned(data_lib.load("digits")).train["inputs"].astype(np.float64)
    rng = np.random.default_rng(0)
    noise, times = rng.normal(size=images.shape), rng.integers(0, 1000, len(images))
    alphas_bar = np.cos((times / 1000 + 0.008) / 1.008 * np.pi / 2)[:, None, None, None] ** 2
    v = np.sqrt(alphas_bar) * noise - np.sqrt(1 - alphas_bar) * images
    bound = config_of("digits").unlearn.gradient_ascent.max_loss
    assert bound == pytest.approx(np.mean(v**2), abs=0.01)
    assert config_of("cifar10").unlearn.gradient_ascent.max_loss == 1.0


def test_cifar10_has_the_published_values_and_the_digits_their_own():
    small, large = config_of("digits,method=all"), config_of("cifar10,method=all")
    assert (large.unlearn.selective_amnesia.strength, large.train.clip_norm) == (30_720.0, 1.0)
    assert large.unlearn.esd.bank is None and small.unlearn.esd.bank == 15
    assert small.train.clip_norm is None and not small.train.augment and large.train.augment
    for config in (small, large):
        amnesia, saliency = config.unlearn.selective_amnesia, config.unlearn.salun_diffusion
        assert set(amnesia) == set(config_lib.METHODS["selective_amnesia"])
        assert (saliency.clip_norm is None) == (config is small)
        given = build.given(config, toy())
        for name in config.methods:
            build.unlearner(name, config, 100, given)
    # The published strength goes with the published importance, per value of an image.
    assert amnesia.importance == "summed" and amnesia.strength / 3072 == 10
    assert large.unlearn.esd.eta == 1.0 and large.unlearn.concept_ablation.anchor_weight == 0.0
    assert saliency.retain_weight / 3072 == pytest.approx(1e-3, rel=1e-3)


def test_gradients_are_clipped_to_a_norm_before_the_step():
    tx = training_of(optimizer="sgd", schedule="constant", learning_rate=0.5, clip_norm=2.0)
    for gradient, step in (([3.0, 4.0], [-0.6, -0.8]), ([0.3, 0.4], [-0.15, -0.2])):
        params = jnp.zeros(2)
        update, _ = tx.update(jnp.array(gradient), tx.init(params), params)
        np.testing.assert_allclose(update, step, rtol=1e-6)
    of = build.optimizer("sgd", 0.5, 2.0)
    update, _ = of.update(jnp.array([6.0, 8.0]), of.init(jnp.zeros(2)))
    np.testing.assert_allclose(update, [-0.6, -0.8], rtol=1e-6)


def test_what_is_drawn_by_class_is_mirrored_and_never_cropped():
    config, dataset = config_of("digits"), toy()
    config.train.augment = True
    task = build.task(config, dataset)
    example = {name: jnp.asarray(value[0]) for name, value in dataset.train.items()}
    example["stratum"] = jnp.array([0.0, 1.0])
    draw = jax.jit(jax.vmap(lambda key: task.draw(key, example, True)["inputs"]))
    image, found = np.asarray(example["inputs"]), np.asarray(draw(jax.random.split(RNG, 20)))
    mirrored = [np.array_equal(x, image[:, ::-1]) for x in found]
    same = [np.array_equal(x, image) for x in found]
    assert sum(mirrored) + sum(same) == 20 and min(sum(mirrored), sum(same)) > 2
    calm = task.draw(RNG, example, False)["inputs"]
    np.testing.assert_array_equal(calm, image)


@pytest.mark.slow
def test_every_method_can_do_with_images_that_are_mirrored():
    """Those too that train on conditions and have no images in the batch."""
    config, dataset = config_of("cifar10,method=all,model=dit"), toy(3)
    config.model.options.update(SMALL["dit"])
    config.unlearn.batch_size = config.train.batch_size = 4
    task = build.task(config, dataset)
    data = {name: jnp.asarray(value) for name, value in dataset.train.items()}
    variables = jax.eval_shape(lambda: training.init_variables(task, data, RNG))
    forgotten = np.asarray(data["targets"]) == 2
    sets = ({k: v[rows] for k, v in data.items()} for rows in (forgotten, ~forgotten))
    request, given = Request(*sets), build.given(config, dataset)
    for name in config.methods:
        method = build.unlearner(name, config, 8, given)

        def forget(variables, method=method):
            train = data if "train" in method.needs else None
            started, memory = method.init(RNG, task, variables, train)
            return method.update(RNG, task, started, memory, request)[0]

        found = jax.eval_shape(forget, variables)
        assert jax.tree.leaves(found), name


def accelerated():
    """A step of the config of accelerators, its state and a batch, in shapes: few channels, 8x8."""
    config = config_of("cifar10")
    config.train.update({"batch_size": 8, "num_epochs": 1})
    dataset = toy(3)
    recipe = training.recipe(build.task(config, dataset), build.training_optimizer(config, 12))
    data = {name: jnp.asarray(value) for name, value in dataset.train.items()}
    start = lambda: recipe.start(data, jax.random.key(0), None)
    return config, dataset, recipe, start, data_lib.take(data, jnp.arange(8))


@pytest.mark.slow
def test_the_config_of_accelerators_trains_the_papers_network_in_bfloat16():
    config, dataset, recipe, start, batch = accelerated()
    assert config.train.shard_parameters and config.train.average == 0.9999
    assert denoising.process(config, dataset).prediction == "epsilon"
    state = jax.eval_shape(start)
    program = jax.jit(recipe.step).trace(state, batch, jax.random.key(1))
    assert "bf16" in str(program.jaxpr)
    moved, metrics = program.out_info
    assert jax.tree.structure(moved) == jax.tree.structure(state) and "loss" in metrics
    deployed = jax.eval_shape(recipe.deploy, state)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(deployed)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_it_takes_a_step_with_its_parameters_split_over_devices(quick_compiler):
    _, _, recipe, start, batch = accelerated()
    mesh = parallel.mesh()
    with jax.set_mesh(mesh):
        shardings = parallel.split_shardings(jax.eval_shape(start), mesh, min_size=16)
        state = jax.jit(start, out_shardings=shardings)()
        step = jax.jit(recipe.step, out_shardings=(shardings, None))
        moved, metrics = step(state, parallel.shard(batch, mesh), jax.random.key(1))
    assert np.isfinite(metrics["loss"]) and metrics["weight"] == 8
    leaves = jax.tree.leaves(moved.variables["params"])
    assert any(not leaf.sharding.is_fully_replicated for leaf in leaves)


def test_a_search_through_the_methods_values_makes_sense():
    config = diffusion_sweep.get_config("digits,forget=class:3/class:7")
    assert config.scenarios == ("class:3", "class:7")
    assert sorted(config.methods) == sorted(config.spaces)
    assert config.validation_fraction == 0.2 and config.task == "diffusion"
    sweep.validate(config, build.given(config, toy()))
    config.spaces.esd.learning_rate = (-1.0,)
    with pytest.raises(ValueError, match="learning_rate must be > 0"):
        sweep.validate(config, build.given(config, toy()))
    assert diffusion_sweep.get_config("method=esd").methods == ("esd",)
