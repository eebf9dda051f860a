"""The task on a decoder: generation, and what reaches it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import frameworks
from tests.sentences import BATCH, KEY, PROMPTS, SMALL, TOKENS, B, T, V, outputs
from unlearnjax import curvature, models, tasks, training, trees, unlearning


@pytest.fixture(scope="module")
def decoder():
    """Task and model, of which nothing is 0 by its start."""
    task = tasks.language_modelling(tasks.from_linen(models.Decoder(SMALL)), max_new_tokens=6)
    return task, frameworks.random_like(jax.eval_shape(task.init, KEY, BATCH))


def generated(task, variables, batch=PROMPTS, rng=KEY):
    return generator(task)(variables, rng, batch)["tokens"]


@functools.cache
def generator(task):
    """Compiled once for all tests."""
    return jax.jit(functools.partial(tasks.generate, task))


def one_by_one(task, variables, number=6):
    """Greedy continuations without a cache: every turn reads all from the start."""
    prompts, lengths = np.asarray(PROMPTS["condition"]), np.asarray(PROMPTS["condition_length"])
    tokens = np.pad(prompts, ((0, 0), (0, number)))
    logits = jax.jit(lambda x: outputs(task, variables, {**PROMPTS, "inputs": x})["logits"])
    found = np.zeros((len(prompts), number), np.int32)
    for turn in range(number):
        at = lengths + turn - 1
        found[:, turn] = np.asarray(logits(tokens))[np.arange(len(at)), at].argmax(-1)
        tokens[np.arange(len(at)), at + 1] = found[:, turn]
    return found


def test_generation_reads_prompts_once_and_then_single_tokens(decoder):
    task, variables = decoder
    read = []

    def spied(variables, batch, rng, train):
        read.append(batch["inputs"].shape)
        outputs, updated = task.apply(variables, batch, rng, train)
        assert outputs.keys() == {"logits", "cache.block_0.key", "cache.block_0.value"}
        return outputs, updated

    jax.eval_shape(lambda v: tasks.generate(task._replace(apply=spied), v, KEY, PROMPTS), variables)
    longest = 4 + 6 - 1  # whose form alone is asked for
    assert list(dict.fromkeys(read)) == [(4, 4), (4, longest), (4, 1)]


def test_generation_with_the_cache_is_that_without(decoder):
    np.testing.assert_array_equal(generated(*decoder), one_by_one(*decoder))


def test_draws_depend_on_an_examples_index_alone(decoder):
    _, variables = decoder
    model = tasks.from_linen(models.Decoder(SMALL))
    task = tasks.language_modelling(model, max_new_tokens=6, temperature=1.0)
    found = generated(task, variables)
    order = jnp.array([2, 0, 3, 1])
    moved = {name: value[order] for name, value in PROMPTS.items()}
    padding = jnp.arange(4) >= moved["condition_length"][:, None]
    moved["condition"] = jnp.where(padding, 3, moved["condition"])
    np.testing.assert_array_equal(generated(task, variables, moved), found[order])
    assert (found != generated(task, variables, rng=jax.random.key(1))).any()
    assert (found != generated(*decoder)).any()


def test_padding_and_neighbours_change_nothing(decoder):
    task, variables = decoder
    wide = {name: jnp.pad(value, ((0, 1), (0, 3))) for name, value in BATCH.items()}
    wide["inputs"] = wide["inputs"].at[:, T:].set(5).at[3].set(2)

    @jax.jit
    def score(batch):
        found = outputs(task, variables, batch)
        return task.loss(found, batch), found["features"], task.metrics(found, batch)

    close = lambda x, y: np.testing.assert_allclose(x[:B], y, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, score(wide), score(BATCH))


WHERE = [f"*.attention.{name}" for name in "qkvo"] + ["*.mlp.gate", "*.mlp.up", "*.mlp.down"]


def test_lora_says_and_generates_what_the_merged_model_does(decoder):
    task, model = decoder
    student = tasks.lora(task, rank=2, where=WHERE, alpha=4.0)
    fresh = training.init_variables(student, BATCH, KEY, tasks.as_base(model))
    assert len(trees.names(fresh["params"])) == 2 * SMALL.depth * len(WHERE)
    np.testing.assert_array_equal(generated(student, fresh), generated(task, model))
    for own in fresh["params"]["block_0"]["attention"], fresh["params"]["block_0"]["mlp"]:
        for name in own:  # each on its own, that none is without effect
            shaken = jax.tree.map_with_path(
                lambda path, x, name=name: x + 0.5 if f".{name}." in trees.path_name(path) else x,
                fresh,
            )
            assert_says_what_is_merged(student, task, shaken, model)
    variables = {**fresh, "params": frameworks.random_like(fresh["params"])}
    own, plain = generated(student, variables), generated(task, tasks.merged(student, variables))
    np.testing.assert_array_equal(own, plain)
    assert (own != generated(task, model)).any()


def assert_says_what_is_merged(student, task, variables, model):
    found = loss_of(student)(variables)
    np.testing.assert_allclose(found, loss_of(task)(tasks.merged(student, variables)), rtol=1e-4)
    assert np.abs(found - loss_of(task)(model)).max() > 1e-3


@functools.cache
def loss_of(task):
    return jax.jit(lambda v: task.loss(outputs(task, v), BATCH))


def test_lora_at_a_strength_of_each_row_generates_as_merged_at_that_strength(decoder):
    task, model = decoder
    student = tasks.lora(task, rank=2, where=["*.q", "*.down"], column="strength")
    plain = tasks.lora(task, rank=2, where=["*.q", "*.down"])
    fresh = training.init_variables(plain, BATCH, KEY, tasks.as_base(model))
    variables = {**fresh, "params": frameworks.random_like(fresh["params"])}
    strength = jnp.array([0.0, 1.0, 1.0, 0.0])
    found = generated(student, variables, {**PROMPTS, "strength": strength})
    base, full = generated(task, model), generated(task, tasks.merged(plain, variables))
    np.testing.assert_array_equal(found, np.where(strength[:, None] > 0, full, base))
    assert (base != full).any()


def test_block_and_mlp_outputs_are_captured_and_edited_by_name(decoder):
    task, variables = decoder
    names = ("embed", "block_0", "block_0.attention", "block_0.mlp")
    seen = jax.jit(lambda v: outputs(tasks.capture(task, names), v))(variables)
    h = {name: np.asarray(seen[f"hidden.{name}"]) for name in names}
    together = h["embed"] + h["block_0.attention"] + h["block_0.mlp"]
    np.testing.assert_allclose(h["block_0"], together, rtol=1e-4, atol=1e-5)
    norm = lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + SMALL.norm_eps)
    last = norm(h["block_0"]) * np.asarray(variables["params"]["norm"]["scale"])
    np.testing.assert_allclose(seen["hidden"], last, rtol=1e-4, atol=1e-5)


def silent(name):
    """Parameters under which a layer adds nothing, as if its output were edited to 0."""
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if trees.path_name(path).startswith(name) else x, params
    )


EDITS = {"block_0.mlp": "block_0.mlp.down", "block_0.attention": "block_0.attention.o"}


@pytest.mark.parametrize("layer", EDITS)
def test_an_edit_reaches_generation(layer, decoder):
    task, variables = decoder
    edited = tasks.edit(task, {layer: lambda h, batch: 0 * h})
    without = {"params": silent(EDITS[layer])(variables["params"])}
    found = generated(edited, variables)
    np.testing.assert_array_equal(found, generated(task, without))
    assert (found != generated(task, variables)).any()


def test_an_edit_of_a_block_sees_the_position_it_is_at(decoder):
    task, variables = decoder

    def shift(h, batch):
        at = batch.get("positions", jnp.arange(h.shape[1])[None])
        return h + jnp.where(at % 2 == 0, 1.0, -1.0)[..., None]

    edited = tasks.edit(task, {"block_0": shift})
    np.testing.assert_array_equal(generated(edited, variables), one_by_one(edited, variables))


def test_ensembles_generate_by_mean_probabilities_without_a_cache(decoder):
    task, variables = decoder
    both = jax.tree.map(lambda x: jnp.stack([x, 0.7 * x]), variables)
    models_of = [jax.tree.map(lambda x, i=i: x[i], both) for i in range(2)]
    each = lambda batch: [outputs(task, own, batch)["logits"] for own in models_of]
    mean = lambda batch: jax.nn.logsumexp(jax.nn.log_softmax(jnp.stack(each(batch))), 0)
    plain = task._replace(apply=lambda v, b, rng, train: ({"logits": mean(b)}, v))
    found = generated(unlearning.averaged(task), both)
    np.testing.assert_array_equal(found, one_by_one(plain, None))


def test_squared_gradients_of_tied_embeddings_are_squared_after_both_uses(decoder):
    task, variables = decoder
    data = {**BATCH, "index": jnp.arange(B), "weight": jnp.array([1.0, 2.0, 0.5])}

    def loss(params, example):
        batch = jax.tree.map(lambda x: x[None], example)
        return task.loss(outputs(task, {"params": params}, batch), batch)[0]

    @jax.jit
    def both(params):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, dict(data))
        weigh = lambda g: jnp.einsum("n...,n->...", g**2, data["weight"])
        expected = jax.tree.map(weigh, gradients)
        return curvature.layers.summed_squares(task, {"params": params}, data), expected

    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, *both(variables["params"]))
    known = {layer.name for layer in curvature.layers.find(task, variables, data)}
    assert {"block_0.attention.q", "block_0.mlp.down"} <= known


@pytest.mark.slow
def test_it_learns_answers_by_heart_and_then_recites_them():
    config = SMALL._replace(width=16, mlp_width=32)
    model = tasks.from_linen(models.Decoder(config, remat=True))
    task = tasks.language_modelling(model, over="all", chunk=4, max_new_tokens=3)
    data = {**BATCH, "answer": jnp.ones((B, T)), "index": jnp.arange(B)}
    # Rotations tell positions apart only where tokens differ.
    data["inputs"] = data["inputs"].at[:, 0].set(jnp.array([6, 0, 2]))
    start = training.init_variables(task, data, KEY)
    assert abs(float(task.loss(outputs(task, start, data), data).mean()) - np.log(V)) < 0.5
    variables, _ = training.fit(
        training.recipe(task, optax.adam(2e-2)),
        data,
        jnp.arange(B),
        jax.random.key(1),
        num_epochs=60,
        batch_size=B,
    )
    assert training.evaluate(task, variables, data)["extraction"].tolist() == [1.0] * B
    prompts = {"condition": data["inputs"][:, :4], "condition_length": jnp.full(B, 4)}
    np.testing.assert_array_equal(generated(task, variables, prompts), TOKENS[:, 4:])
