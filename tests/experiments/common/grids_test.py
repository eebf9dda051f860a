"""A grid of styles and objects from a config: what is learned, by whom, and what is asked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import style_grid as config_lib
from configs import style_grid_sweep
from experiments import sweep
from experiments.common import build, evaluations, grids, kinds, measure, ranges
from unlearnjax import data as data_lib
from unlearnjax import models, tasks, training, trees
from unlearnjax.data import captions, style_grid
from unlearnjax.data.concept_requests import Concept
from unlearnjax.types import Request

STYLES, OBJECTS = ("photo", "crimson", "neon"), ("zero", "one", "two")


@pytest.fixture(scope="module")
def grid():
    """Nine images, three of each object, in three styles."""
    images = np.random.default_rng(0).uniform(size=(12, 8, 8))
    labels = np.arange(12) % 3
    return style_grid.rendered((images[:9], labels[:9]), (images[9:], labels[9:]), OBJECTS, STYLES)


def config_of(arg="digits,forget=style:neon"):
    config = config_lib.get_config(arg)
    small = {"width": 8, "depth": 1, "num_heads": 2}
    config.model.options.update(small)
    config.model.text_encoder.update(small)
    config.base.image_encoder.options.update(small)
    return config


@pytest.fixture(scope="module")
def made(grid):
    """The task, and variables whose every parameter has an effect."""
    config = config_of()
    task = build.task(config, grid)
    batch = {name: jnp.asarray(value[:4]) for name, value in grid.train.items()}
    fresh = jax.jit(lambda: training.init_variables(task, batch, jax.random.key(0)))()
    waves = lambda x: 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    return config, task, batch, jax.tree.map(lambda x: x + waves(x), fresh)


def test_the_model_reads_captions_of_the_grids_words(grid):
    config = config_of()
    config.model.text_encoder.depth = 3
    module = build.model(config, grid)
    assert isinstance(module, models.TextDiT) and module.width == 8
    encoder = module.text_encoder
    assert (encoder.vocabulary, encoder.length, encoder.depth) == (
        len(grid.vocabulary.words),
        12,
        3,
    )
    assert encoder.end == grid.vocabulary.words.index(captions.END)
    found = grids.process(config, grid)
    assert found.null == grid.vocabulary.empty and found.shape == (8, 8, 3)
    assert build.given(config, grid)["process"].null == found.null


def test_training_hears_one_of_the_captions_and_evaluation_the_benchmarks(made):
    config, task, batch, _ = made
    train = tasks.drawn(task, tasks.keyed(batch, jax.random.key(1)), train=True)
    null = np.array(grids.process(config, build.dataset(config_of(), None)).null)
    for row, heard in enumerate(np.asarray(train["condition"])):
        known = [*np.asarray(batch["captions"][row]), null]
        assert any((heard == own).all() for own in known)
    np.testing.assert_array_equal(tasks.drawn(task, batch)["condition"], batch["condition"])
    config = config_of()
    config.task_options.condition_dropout = 1.0
    dropped = build.task(config, build.dataset(config, None))
    silent = tasks.drawn(dropped, tasks.keyed(batch, jax.random.key(1)), train=True)
    assert (np.asarray(silent["condition"]) == null).all()


def test_a_text_encoder_that_a_pair_has_learned_stays_as_it_is(made):
    """In training, in what is deployed of an average, and bit by bit; the denoiser moves."""
    config, task, batch, variables = made
    batch = data_lib.take(batch, jnp.arange(4))

    @jax.jit(static_argnums=0)
    def trained(tx):
        recipe = training.recipe(task, grids.recipe(config, tx))
        step = lambda _, state: recipe.step(state, batch, jax.random.key(2))[0]
        start = recipe.start(batch, jax.random.key(0), variables)
        return recipe.deploy(jax.lax.fori_loop(0, 3, step, start))["params"]

    decaying = optax.adamw(0.1, weight_decay=0.5)  # moves what has no gradient, too
    for tx in (decaying, training.averaged(optax.adam(0.1), decay=0.9)):
        found = trained(tx)
        pairs = zip(
            *(jax.tree.leaves(own["text_encoder"]) for own in (variables["params"], found)),
            strict=True,
        )
        assert all(np.array_equal(old, new) for old, new in pairs)
        old, new = (jax.tree.leaves(own["denoiser"]) for own in (variables["params"], found))
        assert not any(np.array_equal(a, b) for a, b in zip(old, new, strict=True))
    config = config_of()
    config.base = None
    tx = optax.adam(0.1)
    assert grids.recipe(config, tx) is tx


def test_denoisers_start_from_the_pairs_text_encoder(grid, made):
    config, task, batch, _ = made
    pair = grids.pair(config, grid, task)
    data = {k: jnp.asarray(v[:4]) for k, v in grids.base(config_of(), None).items()}
    assert set(data) == {"inputs", "condition", "captions", "index"}
    words = build.dataset(config, None)
    fresh = jax.jit(lambda: training.init_variables(pair, batch, jax.random.key(5)))()
    start = grids.text_encoder(fresh)
    variables = jax.jit(lambda: training.init_variables(task, batch, jax.random.key(0), start))()
    own = variables["params"]["text_encoder"]
    jax.tree.map(np.testing.assert_array_equal, own, fresh["params"]["text_encoder"])
    assert set(variables["params"]) == {"text_encoder", "denoiser"} and words.num_classes == 10
    # The pair hears the captions that are drawn, too.
    heard = tasks.drawn(pair, tasks.keyed(batch, jax.random.key(1)), train=True)["condition"]
    assert not np.array_equal(heard, batch["condition"])


def test_each_request_of_a_sequence_leaves_less_and_nothing_becomes_what_is_gone(grid):
    config = config_of("digits,forget=sequence:neon+one+photo/two")
    found = grids.asked(config, grid, grid.train)
    style, content = grid.train["style"], grid.train["object"]
    gone = [style == 2, (style != 2) & (content == 1), (style == 0) & (content == 2)]
    left = np.ones(len(style), bool)
    for (told, retained), own in zip(found, gone, strict=True):
        np.testing.assert_array_equal(told["index"], np.flatnonzero(own))
        left &= ~own
        np.testing.assert_array_equal(retained, np.flatnonzero(left))
    said = lambda told: set(captions.decode(grid.vocabulary, told["anchor.condition"]))
    assert said(found[0][0]) == {f"a {name} image in photo style" for name in OBJECTS}
    assert said(found[1][0]) == {f"a two image in {name} style" for name in ("photo", "crimson")}
    assert said(found[2][0]) == {"a two image in crimson style"}
    config.forget = "sequence:neon+neon/one"
    with pytest.raises(ValueError, match=r"nothing is left to forget of \['neon/one'\]"):
        grids.asked(config, grid, grid.train)
    config = config_of("digits,forget=style:neon")
    config.anchor = "crimson"
    ((told, _),) = grids.asked(config, grid, grid.train)
    assert said(told) == {f"a {name} image in crimson style" for name in OBJECTS}
    config.anchor = "crimsom"
    with pytest.raises(ValueError, match="anchor 'crimsom': .* did you mean 'crimson'"):
        grids.asked(config, grid, grid.train)
    assert grids.requests(config, grid) == [[Concept(2)]]


def test_a_problem_has_the_rows_of_what_is_forgotten():
    config = config_of("digits,forget=style:neon,train=600,test=300")
    problem = build.problem(config, None)
    assert (problem.train["style"][problem.forget] == 5).all()
    assert (problem.train["style"][problem.retain] != 5).all()
    np.testing.assert_array_equal(problem.oracle, problem.retain)
    assert (problem.held_out["style"][problem.unseen] == 5).all()
    assert (problem.held_out["style"][problem.test] != 5).all()
    assert not set(problem.val["image"]) & set(problem.train["image"])
    bench = measure.bench(config, problem)
    assert bench.requests == () and "anchor.condition" in bench.request.forget
    assert len(bench.request.retain["index"]) == len(problem.retain)
    config = config_of("digits,forget=sequence:neon+three,train=600,test=300")
    several = measure.bench(config, build.problem(config, None))
    assert len(several.requests) == 2 and "concept" in several.requests[1].forget
    config.forget = "style:neno"
    with pytest.raises(ValueError, match="did you mean 'neon'") as error:
        build.problem(config, None)
    assert "\n" not in str(error.value)


def test_options_without_a_meaning_and_sets_that_are_no_grid_are_refused(tmp_path):
    for field, value in {"target": "style", "weights": "some/where"}.items():
        config = config_of()
        config[field] = value
        with pytest.raises(ValueError, match=f"{field} has no meaning for a grid of styles"):
            grids.dataset(config, None)
    config = config_of("folder,forget=style:b")
    with pytest.raises(ValueError, match="give --config.source=PATH"):
        grids.dataset(config, None)
    for style in "ab":
        folder = tmp_path / style / "cat"
        folder.mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"{number}.jpg")
    config.source, config.task_options.image_size = str(tmp_path), 8
    found = grids.dataset(config, None)
    assert found.styles == ("a", "b") and found.train["inputs"].shape == (8, 8, 8, 3)
    with pytest.raises(ValueError, match="config option 'model' has no meaning for a grid"):
        config_lib.get_config("digits,model=unet")


def test_every_method_is_made_with_the_fields_of_the_config():
    config = config_of("digits,method=all")
    ranges.validate(config)
    dataset = build.dataset(config, None)
    given = build.given(config, dataset)
    for name in config.methods:
        build.unlearner(name, config, 1000, given)
    names = set(kinds.of(config).fields)
    assert names == {"process"} and evaluations.of(config).trailed


def test_a_search_through_the_methods_values_makes_sense():
    config = style_grid_sweep.get_config("digits,forget=style:neon/pair:neon/three+photo/two")
    assert config.scenarios == ("style:neon", "pair:neon/three+photo/two")
    assert set(config.methods) == set(config.spaces) == set(config_lib.METHODS) - {"retrain"}
    assert config.validation_fraction == 0.2 and config.task == "text_diffusion"
    assert config.seed != config_lib.get_config().seed and config.num_seeds == 1
    assert "rank" not in config and "tuned" not in config
    given = build.given(config, build.dataset(config, None))
    sweep.validate(config, given)
    ranges.validate(config)
    config.spaces.uce.ridge = (0.0,)
    with pytest.raises(ValueError, match="ridge must be > 0"):
        sweep.validate(config, given)
    one = style_grid_sweep.get_config("method=uce,forget=object:one")
    assert one.methods == ("uce",) and one.scenarios == ("object:one",)
    assert style_grid_sweep.get_config().scenarios == ("style:neon", "object:three")
    assert style_grid_sweep.get_config("fashion_mnist").dataset == "fashion_mnist"


def test_methods_move_what_the_config_says_and_nothing_else(made):
    """Of all parameters, by one step of fine-tuning each."""
    config, task, batch, variables = made
    config = config_of("digits,method=all")
    config.unlearn.finetune.batch_size, config.unlearn.finetune.num_epochs = 4, 1
    cases = {
        ("denoiser", ""): lambda name: name.startswith("denoiser."),
        ("*.cross", ""): lambda name: ".cross." in name,
        (
            config.unlearn.esd_u.moves,
            config.unlearn.esd_u.stays,
        ): lambda name: (
            name.startswith("denoiser.")
            and ".cross." not in name
            and not name.startswith(("denoiser.time_", "denoiser.pixels.", "denoiser.table"))
        ),
    }
    names = trees.names(variables["params"])
    for (moves, stays), expected in cases.items():
        config.unlearn.finetune.update({"moves": moves, "stays": stays})
        method = build.unlearner("finetune", config, 4)
        request = Request(None, batch)
        found, _ = jax.jit(
            lambda v, method=method, request=request: method.update(
                jax.random.key(0), task, v, (), request
            )
        )(variables)
        pairs = zip(
            names,
            jax.tree.leaves(variables["params"]),
            jax.tree.leaves(found["params"]),
            strict=True,
        )
        moved = {name for name, old, new in pairs if not np.array_equal(old, new)}
        assert moved <= set(filter(expected, names)) and len(moved) > 3


def test_the_config_says_how_much_is_run():
    quick = config_lib.get_config("quick")
    assert quick.forget == "style:neon" and "scenarios" not in quick
    assert quick.methods == config_lib.QUICK and quick.num_oracles == 0
    usual = config_lib.get_config()
    assert usual.scenarios == ("style:neon", "object:three") and len(usual.methods) == 8
    assert usual.num_oracles is None and usual.num_seeds == 1
    full = config_lib.get_config("full")
    assert full.num_seeds == 3 and set(full.methods) == set(config_lib.METHODS)
    assert full.evaluate.answers.per_cell == 10
    kinds_of = [forget.partition(":")[0] for forget in full.scenarios]
    assert kinds_of == ["style"] * 3 + ["object"] * 3 + ["pair", "sequence"]
    words = style_grid.digits()
    for forget in full.scenarios:
        data_lib.concept_requests.requested(forget, words.styles, words.class_names)
    split = config_lib.scenarios("style:neon/pair:neon/three+photo/two/object:one")
    assert split == ["style:neon", "pair:neon/three+photo/two", "object:one"]
    clothes = config_lib.get_config("fashion_mnist,seeds=2")
    assert clothes.num_seeds == 2 and clothes.evaluate.judges.least_object == 0.8
    assert clothes.scenarios == ("style:neon", "object:Bag")


def test_no_layer_of_the_model_is_called_otherwise_than_the_config_says(made):
    _, _, _, variables = made
    names = trees.names(variables["params"])
    assert {name.partition(".")[0] for name in names} == {"denoiser", "text_encoder"}
    fields = {field.name for field in dataclasses.fields(models.TextDiT)}
    assert set(config_of().model.options) <= fields
