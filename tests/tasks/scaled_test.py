"""Every example at a strength of its own, against one model of that strength for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests import frameworks, problems
from unlearnjax import models, tasks, training
from unlearnjax.models import layers

STRENGTHS = jnp.array([0.0, 1.0, 0.5, -2.0])


class Attention(nn.Module):
    """Tokens, embedded and compared with a tied table, positions of its own, a norm."""

    @nn.compact
    def __call__(self, inputs, train=False):
        embed = nn.Embed(9, 6)
        x = embed(inputs) + self.param("positions", nn.initializers.normal(1.0), (4, 6))
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return embed.attend(nn.Dense(6)(x).mean(1))


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.tanh(layers.Conv(4, (3, 3))(inputs))
        x = nn.tanh(nn.Conv(4, (3, 3), feature_group_count=2, strides=2)(x))
        x = nn.ConvTranspose(3, (2, 2), strides=(2, 2))(x)
        return nn.Einsum((3, 5), "bhwc,co->bo")(x)


class Rows(nn.Module):
    """A layer that is applied to a table with as many rows as the batch has, and to the batch."""

    @nn.compact
    def __call__(self, inputs, train=False):
        layer = nn.Dense(3)
        table = layer(jnp.arange(4.0 * 5).reshape(4, 5) / 10)
        return layer(inputs) + nn.tanh(table).sum(0)


class Elsewhere(nn.Module):
    """A kernel that is read by its layer and beside it."""

    @nn.compact
    def __call__(self, inputs, train=False):
        layer = nn.Dense(3)
        result = layer(inputs)
        return result + jnp.tanh(layer.variables["params"]["kernel"]).sum(0)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.tanh(nn.Dense(5)(x)), None


class Lifted(nn.Module):
    """Layers in `remat`, in a `scan` over their own parameters, and of one set for several axes."""

    @nn.compact
    def __call__(self, inputs, train=False):
        x, _ = nn.remat(Block)()(inputs)
        scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = scan()(x, None)
        shared = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}
        mapped = nn.vmap(nn.Dense, in_axes=1, out_axes=1, **shared)
        return mapped(3)(jnp.stack([x, 2 * x], 1)).sum(1)


class Squared(nn.Module):
    """A layer whose product is another one, which is not linear."""

    @nn.compact
    def __call__(self, inputs, train=False):
        product = lambda x, w, *args, **kwargs: jax.lax.dot_general(x, w**2, *args, **kwargs)
        return nn.Dense(3, dot_general=product)(inputs)


VECTORS = jax.random.normal(jax.random.key(0), (4, 5))
IMAGES = jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
TOKENS = jnp.arange(16).reshape(4, 4) % 9
CASES = {
    "linen": (frameworks.task("linen"), VECTORS),
    "nnx": (frameworks.task("nnx"), VECTORS),
    "plain": (frameworks.task("plain"), VECTORS),
    "attention": (problems.linen(Attention()), TOKENS),
    "convolutions": (problems.linen(Convolutions()), IMAGES),
    "norm": (problems.linen(models.ResNet(num_classes=3, stage_sizes=(1,), width=2)), IMAGES),
    "rows": (problems.linen(Rows()), VECTORS),
    "elsewhere": (problems.linen(Elsewhere()), VECTORS),
    "lifted": (problems.linen(Lifted()), VECTORS),
    "squared": (problems.linen(Squared()), VECTORS),
}


def prepared(name, **options):
    """A task, one of its changes, a batch, the model and variables with changes of every entry."""
    task, inputs = CASES[name]
    batch = {"inputs": inputs, "targets": jnp.arange(4) % 3, "strength": STRENGTHS}
    own = tasks.lora(task, 2, alpha=3.0, vectors=True, column="strength", **options)
    model = jax.jit(task.init)(jax.random.key(1), batch)
    start = tasks.as_base(model)
    variables = training.init_variables(own, batch, jax.random.key(2), start)
    return task, own, batch, model, {**variables, "params": frameworks.shaken(variables["params"])}


def one_by_one(task, own, batch, model, variables):
    """The logits of each example by the plain model between the base and the merged one."""

    @jax.jit
    def one(strength, example):
        mix = lambda old, new: old + strength * (new - old)
        params = jax.tree.map(mix, model["params"], tasks.merged(own, variables)["params"])
        example = {k: v[None] for k, v in example.items()}
        return task.apply({**model, "params": params}, example, None, False)[0]["logits"][0]

    rows = [{k: v[i] for k, v in batch.items()} for i in range(4)]
    return jnp.stack([one(row["strength"], row) for row in rows])


@pytest.mark.parametrize("name", CASES)
def test_every_example_has_the_model_of_its_strength(name):
    task, own, batch, model, variables = prepared(name)
    apply = jax.jit(lambda v, b: own.apply(v, b, None, False))
    plain = jax.jit(lambda v: task.apply(v, batch, None, False)[0]["logits"])
    found, same = apply(variables, batch)
    problems.assert_trees_equal(same, variables)
    expected = one_by_one(task, own, batch, model, variables)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(expected - expected[::-1]).max()) > 0.05
    np.testing.assert_allclose(found["logits"][0], plain(model)[0], rtol=1e-5, atol=1e-5)
    ones, _ = apply(variables, {**batch, "strength": jnp.ones(4)})
    merged = plain(tasks.merged(own, variables))
    np.testing.assert_allclose(ones["logits"], merged, rtol=1e-4, atol=1e-4)


class Square(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.tanh(nn.Dense(5, name="first")(inputs))
        return nn.Dense(5, name="third")(nn.tanh(nn.Dense(5, name="second")(x)))


def test_one_array_in_three_places_has_the_change_of_each():
    """Outside of compiled code equal layers may hold the very same array, or NumPy's."""
    kernel = jax.random.normal(jax.random.key(3), (5, 5))
    layer = {"kernel": kernel, "bias": np.zeros(5, np.float32)}
    batch = {"inputs": VECTORS, "strength": STRENGTHS}
    task = problems.linen(Square())
    own = tasks.lora(task, 2, alpha=3.0, vectors=True, column="strength")
    model = {"params": {name: dict(layer) for name in ("first", "second", "third")}}
    start = tasks.as_base(model)
    variables = training.init_variables(own, batch, jax.random.key(2), start)
    variables = {**variables, "params": frameworks.shaken(variables["params"])}
    found = own.apply(variables, batch, None, False)[0]["logits"]
    expected = one_by_one(task, own, batch, model, variables)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_strengths_may_be_whole_numbers():
    _, own, batch, _, variables = prepared("linen")
    found = [
        own.apply(variables, {**batch, "strength": strength}, None, False)[0]["logits"]
        for strength in (jnp.arange(4), jnp.arange(4.0))
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("linen", ()),
        ("attention", ((4, 4, 6), (4, 6))),
        ("convolutions", ()),
        ("rows", ()),
        ("elsewhere", ((4, 5, 3),)),
        ("nnx", ((4, 5, 7), (4, 7), (4, 7, 3), (4, 3))),
    ],
)
def test_weights_of_linear_layers_are_not_repeated_for_every_example(name, changed):
    """`[B, *shape]` of a parameter is computed for those alone that no such layer reads."""
    _, own, batch, model, variables = prepared(name)
    computed = problems.shapes(lambda v: own.apply(v, batch, None, False), variables)
    kernels = [x.shape for x in jax.tree.leaves(model["params"]) if x.ndim > 1]
    assert {(4, *shape) for shape in kernels} & computed == {c for c in changed if len(c) > 2}


def test_gradients_by_changes_are_those_of_one_model_for_each():
    task, own, batch, model, variables = prepared("linen")

    def loss(fn):
        return lambda params: (fn({**variables, "params": params}) ** 2).sum()

    scaled = lambda v: own.apply(v, batch, None, False)[0]["logits"]
    found = jax.jit(jax.grad(loss(jax.checkpoint(scaled))))(variables["params"])
    apart = lambda v: one_by_one(task, own, batch, model, v)
    problems.assert_trees_close(found, jax.grad(loss(apart))(variables["params"]), rtol=1e-4)


def test_an_edit_of_activations_sees_the_change_of_each_example():
    task, own, batch, model, variables = prepared("linen")
    doubled = lambda t: tasks.edit(t, {"hidden": lambda h, batch: 2 * h + 1})
    found = doubled(own).apply(variables, batch, None, False)[0]["logits"]
    expected = one_by_one(doubled(task), own, batch, model, variables)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    inside = tasks.lora(doubled(task), 2, alpha=3.0, vectors=True, column="strength")
    found = inside.apply(variables, batch, None, False)[0]["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(inputs))


def test_dropout_is_drawn_for_each_example_while_training():
    task = problems.linen(Dropped())
    own = tasks.lora(task, 1, column="strength")
    batch = {"inputs": jnp.ones((4, 5)), "strength": jnp.ones(4)}
    start = tasks.as_base(task.init(jax.random.key(0), batch))
    variables = training.init_variables(own, batch, jax.random.key(0), start)
    apply = lambda key: own.apply(variables, batch, key, True)[0]["logits"]
    first, again, other = (apply(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert len(np.unique(first[:, 0])) > 1


def test_models_of_other_libraries_without_statistics_are_trained():
    _, own, batch, _, variables = prepared("nnx")
    outputs = [own.apply(variables, batch, jax.random.key(0), train)[0] for train in (True, False)]
    np.testing.assert_array_equal(outputs[0]["logits"], outputs[1]["logits"])


def test_only_what_where_means_is_scaled_and_whatever_it_draws():
    """Also a mapping of typed keys in the batch, through draws of the task."""
    task, own, batch, model, variables = prepared("linen", where=["out"])
    noisy = lambda t: tasks.augmented(
        t, lambda key, e: {**e, "inputs": e["inputs"] + jax.random.normal(key, (5,))}
    )
    batch = tasks.keyed({**batch, "index": jnp.arange(4)}, jax.random.key(3))
    drawn = tasks.drawn(noisy(task), batch, True)
    found = noisy(own).apply(variables, drawn | {"key": batch["key"]}, None, False)[0]["logits"]
    expected = one_by_one(task, own, drawn, model, variables)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_narrow_base_has_the_change_that_its_weights_are_too_coarse_for():
    """Of the last layer in bfloat16, computed in float32: NumPy's, where W cannot hold it."""
    task = frameworks.task("linen")
    batch = {"inputs": VECTORS, "targets": jnp.arange(4) % 3, "strength": STRENGTHS}
    base = jax.tree.map(
        lambda x: jnp.ones(x.shape, jnp.bfloat16), task.init(jax.random.key(0), batch)["params"]
    )
    own = tasks.lora(task, 2, ["out"], column="strength")
    edits = jax.tree.map(lambda x: jnp.full(x.shape, 1e-2), own.init(jax.random.key(0), batch))
    variables = {**edits, "base": base}
    found = own.apply(variables, batch, None, False)[0]["logits"]
    hidden = 7 * np.tanh(np.asarray(VECTORS, np.float64).sum(1) + 1)
    expected = hidden * (1 + 2e-4 * np.asarray(STRENGTHS)) + 1
    np.testing.assert_allclose(found, np.tile(expected[:, None], 3), rtol=1e-5, atol=1e-5)
    problems.assert_trees_equal(tasks.merged(own, variables)["params"], base)


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_hooks_see_every_example_as_a_batch_of_its_own(name):
    _, own, batch, _, variables = prepared(name)
    layer = next(iter(variables["base"]))
    found = tasks.capture(own, (layer,)).apply(variables, batch, None, False)[0]
    assert found[f"hidden.{layer}"].shape[:2] == (4, 1)


def test_bad_batches_are_named():
    _, own, batch, _, variables = prepared("linen")
    without = {k: v for k, v in batch.items() if k != "strength"}
    with pytest.raises(ValueError, match=r"column 'strength', .* got \['inputs', 'targets'\]"):
        own.apply(variables, without, None, False)
    for bad, given in (
        (STRENGTHS[:, None], r"\[4, 1\]"),
        (STRENGTHS[:3], r"\[3\]"),
        (np.float32(1), r"\[\]"),
        (STRENGTHS.tolist(), "list"),
    ):
        with pytest.raises(ValueError, match=rf"strength must be \[B\], .* \[4\], got {given}$"):
            own.apply(variables, {**batch, "strength": bad}, None, False)
    with pytest.raises(ValueError, match="batch must have examples where strength is"):
        own.apply(variables, {k: v[:0] for k, v in batch.items()}, None, False)
    _, own, batch, _, variables = prepared("norm")
    with pytest.raises(ValueError, match=r"train must be False .*\(strength\).*\['batch_stats'\]"):
        own.apply(variables, batch, jax.random.key(0), True)
