import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from tests import frameworks, problems
from unlearnjax import tasks, training, trees, unlearning
from unlearnjax.types import Request

DATA = frameworks.data()


def shifts(task, where, **options):
    zeros = lambda key, leaf: jnp.zeros(leaf.shape, leaf.dtype) if len(leaf.shape) == 1 else None
    return tasks.adapted(task, where, zeros, jnp.add, **options)


def started(task, own, seed=0):
    """A model, and fresh edits of it."""
    model = task.init(jax.random.key(seed), DATA)
    return model, training.init_variables(own, DATA, jax.random.key(1), tasks.as_base(model))


@pytest.mark.parametrize("name", frameworks.MODELS)
def test_edits_act_on_their_parameters_alone(name):
    task = frameworks.task(name)
    last, kernel = frameworks.LAST[name]
    own = shifts(task, [last])
    model, variables = started(task, own)
    (path,) = trees.names(variables["params"])
    assert path.startswith(last) and path != kernel
    variables = {**variables, "params": jax.tree.map(lambda x: x + 2.0, variables["params"])}
    outputs, updated = own.apply(variables, DATA, None, False)
    plain = task.apply(model, DATA, None, False)[0]
    np.testing.assert_allclose(outputs["logits"], plain["logits"] + 2.0, atol=1e-6)
    problems.assert_trees_equal(updated, variables)
    merged = tasks.merged(own, variables)
    assert set(merged) == set(model)
    assert jax.tree.structure(merged) == jax.tree.structure(model)
    again = task.apply(merged, DATA, None, False)[0]
    np.testing.assert_allclose(again["logits"], outputs["logits"], atol=1e-6)


@pytest.mark.parametrize("name", frameworks.MODELS)
def test_the_base_is_bit_equal_after_training_and_is_carried(name):
    task = frameworks.task(name)
    own = shifts(task, None)
    model, variables = started(task, own)
    train = jax.jit(
        lambda start: training.train(
            own, optax.adam(0.1), DATA, jnp.arange(6), jax.random.key(2),
            num_epochs=2, batch_size=3, start=start,
        )[0].variables
    )  # fmt: skip
    trained = train(tasks.as_base(model))
    problems.assert_trees_equal(trained["base"], model["params"])
    assert all(float(jnp.abs(leaf).max()) > 0.01 for leaf in jax.tree.leaves(trained["params"]))
    assert training.carried(own, DATA, trained).keys() == {"base"}
    retrain = unlearning.retrain(optax.sgd(0.0), num_epochs=1, batch_size=6)
    again, _ = retrain.update(jax.random.key(2), own, trained, (), Request(DATA, DATA))
    problems.assert_trees_equal(again, variables)


def test_an_edit_starts_the_same_whatever_else_is_edited():
    noise = lambda key, leaf: jax.random.normal(key, leaf.shape, leaf.dtype)
    params = [
        tasks.adapted(frameworks.task("linen"), where, noise, jnp.add)
        .init(jax.random.key(3), DATA)["params"]
        for where in (None, ["out"])
    ]  # fmt: skip
    problems.assert_trees_equal(params[0]["out"], params[1]["out"])
    assert params[1]["hidden"] == {"bias": None, "kernel": None}
    both = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params[0])])
    assert len(np.unique(both)) == both.size


def test_no_base_is_made_beside_the_one_that_there_is():
    own = shifts(frameworks.task("linen"), None)
    assert (5, 7) not in problems.shapes(own.init, jax.random.key(0), DATA)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(inputs))


def test_running_statistics_come_along_move_and_begin_anew():
    task = problems.linen(Normed())
    own = shifts(task, None)
    model = task.init(jax.random.key(0), DATA)
    model = {**model, "batch_stats": frameworks.shaken(model["batch_stats"])}
    variables = training.init_variables(own, DATA, jax.random.key(1), tasks.as_base(model))
    problems.assert_trees_equal(variables["batch_stats"], model["batch_stats"])
    _, updated = own.apply(variables, DATA, jax.random.key(0), True)
    _, expected = task.apply(model, DATA, jax.random.key(0), True)
    problems.assert_trees_equal(updated["batch_stats"], expected["batch_stats"])
    assert not np.array_equal(
        updated["batch_stats"]["BatchNorm_0"]["mean"], model["batch_stats"]["BatchNorm_0"]["mean"]
    )
    fresh = own.init(jax.random.key(0), DATA)
    assert set(fresh) == {"params", "batch_stats"}
    problems.assert_trees_equal(
        fresh["batch_stats"], task.init(jax.random.key(0), DATA)["batch_stats"]
    )


def test_transforms_of_one_another_merge_to_the_plain_model():
    task = frameworks.task("linen")
    shifted = shifts(task, None)
    twice = tasks.lora(shifted, 1, vectors=True, collection="below")
    model, inner = started(task, shifted)
    inner = {**inner, "params": frameworks.shaken(inner["params"])}
    start = tasks.as_base(inner, "below")
    variables = training.init_variables(twice, DATA, jax.random.key(1), start)
    assert set(variables) == {"params", "below", "base"}
    problems.assert_trees_equal(tasks.merged(twice, variables), tasks.merged(shifted, inner))
    where = ["out"]
    half, parts = tasks.trained(shifted, where), tasks.split(inner, where)
    assert trees.names(parts["params"]) == ["out.bias"]
    problems.assert_trees_equal(tasks.merged(half, parts), tasks.merged(shifted, inner))
    logits = half.apply(parts, DATA, None, False)[0]["logits"]
    expected = shifted.apply(inner, DATA, None, False)[0]["logits"]
    np.testing.assert_array_equal(logits, expected)
    # What is left of the parameters may be adapted, too.
    trained, halves = tasks.trained(task, where), tasks.split(model, where)
    over = tasks.lora(trained, 2)
    variables = training.init_variables(over, DATA, jax.random.key(1), tasks.as_base(halves))
    assert trees.names(variables["params"]) == ["out.kernel.a", "out.kernel.b"]
    problems.assert_trees_equal(tasks.merged(over, variables), model)


def test_masks_multiply_output_channels():
    """Against the chain rule: a mask's gradient is `sum_r W_rc dL/dW_rc`."""
    task = frameworks.task("linen")
    own = tasks.channel_masks(task, ["*.kernel"])
    model, variables = started(task, own)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "hidden": {"bias": None, "kernel": (7,)},
        "out": {"bias": None, "kernel": (3,)},
    }
    problems.assert_trees_equal(tasks.merged(own, variables), model)

    def loss(task, variables, params):
        variables = {**variables, "params": params}
        return task.loss(task.apply(variables, DATA, None, False)[0], DATA).sum()

    by_mask = jax.grad(lambda p: loss(own, variables, p))(variables["params"])
    by_weight = jax.grad(lambda p: loss(task, model, p))(model["params"])
    for layer in ("hidden", "out"):
        expected = (model["params"][layer]["kernel"] * by_weight[layer]["kernel"]).sum(0)
        np.testing.assert_allclose(by_mask[layer]["kernel"], expected, atol=1e-5)
    mask = jnp.ones(7).at[2].set(0.0)
    variables["params"]["hidden"]["kernel"] = mask
    pruned = tasks.merged(own, variables)["params"]["hidden"]["kernel"]
    np.testing.assert_array_equal(pruned, model["params"]["hidden"]["kernel"].at[:, 2].set(0.0))
    # The same masks on another model, as what was found on an unlearned one prunes the original.
    other = task.init(jax.random.key(9), DATA)["params"]
    moved = tasks.merged(own, {**variables, "base": other})["params"]["hidden"]["kernel"]
    np.testing.assert_array_equal(moved, other["hidden"]["kernel"] * mask)


def test_a_kernel_of_several_axes_has_a_mask_per_unit_and_a_scalar_none():
    def init(rng, batch):
        return {"params": {"kernel": jnp.ones((3, 3, 2, 4)), "temperature": jnp.ones(())}}

    task = tasks.classification(tasks.Model(init, lambda *given: given))
    params = tasks.channel_masks(task, None).init(jax.random.key(0), DATA)["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (4,), "temperature": None}
    with pytest.raises(
        ValueError, match=r"edited, which are floats with an axis, got 'temperature': .*\[\]"
    ):
        tasks.channel_masks(task, ["kernel", "temperature"]).init(jax.random.key(0), DATA)


def test_errors_name_what_there_is():
    task = frameworks.task("linen")
    model = task.init(jax.random.key(0), DATA)
    init = lambda where: shifts(task, where).init(jax.random.key(0), DATA)
    with pytest.raises(ValueError, match=r"where must be among .*, got 'ot'; did you mean 'out'\?"):
        init(["ot"])
    with pytest.raises(ValueError, match="where must choose some of .* chooses none"):
        init(lambda path: False)
    with pytest.raises(
        ValueError, match=r"where must choose parameters .* 'out.kernel': {'out.kernel': \[7, 3\]}"
    ):
        init(["hidden", "out.kernel"])
    with pytest.raises(ValueError, match="where must choose parameters that can be edited, got <f"):
        init(lambda path: path.endswith("kernel"))
    with pytest.raises(ValueError, match="the collection 'base', which tasks.as_base makes"):
        shifts(task, None).apply(model, DATA, None, False)
    with pytest.raises(ValueError, match="collection must be none of .*, got 'base'"):
        tasks.as_base(tasks.as_base(model) | {"params": {}})
