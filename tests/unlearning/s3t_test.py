import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import tasks, training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.s3t import adapted, block_numbers, init_adapters, merge

N, SHARDS, SLICES, BUDGET = 240, 2, 3, 2
METHOD = unlearning.s3t(
    optax.adam(1e-2),
    num_shards=SHARDS,
    num_slices=SLICES,
    budget=BUDGET,
    rank=8,
    num_epochs=6,
    batch_size=32,
)
TURNS = np.argsort(unlearning.sequences.diverse(SLICES, BUDGET), axis=1)


@pytest.fixture(scope="module")
def deployed():
    data = {k: jnp.asarray(v) for k, v in problems.digits(N).items()}
    task = problems.mlp((24, 24))
    init = jax.jit(lambda rng, data: METHOD.init(rng, task, None, data))
    variables, memory = init(jax.random.key(0), data)
    # Compiled once per size of a request; whatever ids are is traced.
    forget = jax.jit(lambda memory, request: METHOD.update(None, task, None, memory, request))
    return task, data, variables, memory, init, forget


def update(deployed, forgotten, memory=None, data=None, also_gone=()):
    _, own_data, _, own, _, forget = deployed
    kept = np.setdiff1d(np.arange(N), [*forgotten, *also_gone])
    rows = (np.asarray(forgotten), kept)
    request = Request(*({k: v[r] for k, v in (data or own_data).items()} for r in rows))
    return forget(memory or own, request)


def of_slice(deployed, shard, number, count=1):
    memory = deployed[3]
    found = (np.asarray(memory.shard) == shard) & (np.asarray(memory.slice) == number)
    return np.flatnonzero(found)[:count]


def test_it_learns_through_adapters_of_a_random_backbone(deployed):
    task, data, variables, *_ = deployed
    accuracy = training.evaluate(METHOD.serve(task), variables, data)["accuracy"].mean()
    assert accuracy > 0.75


def test_blocks_are_layers_from_the_output_down(deployed):
    task, data, _, memory, *_ = deployed
    for count, expected in ((3, (2, 1, 0)), (2, (1, 0, 0)), (1, (0, 0, 0))):
        blocks = block_numbers(task, memory.backbone, data, count)
        found = tuple(blocks[f"Dense_{i}"]["kernel"] for i in range(3))
        assert found == expected
        assert all(blocks[layer]["bias"] == blocks[layer]["kernel"] for layer in blocks)


@pytest.mark.parametrize("number", range(SLICES))
def test_deleting_switches_off_the_blocks_from_that_slice_on(deployed, number):
    forgotten = of_slice(deployed, 1, number)
    _, memory = update(deployed, forgotten)
    np.testing.assert_array_equal(memory.alive[0], [SLICES] * BUDGET)
    np.testing.assert_array_equal(memory.alive[1], TURNS[:, number])
    problems.assert_trees_equal(memory.adapters, deployed[3].adapters)  # nothing was trained


@pytest.mark.parametrize("number", range(SLICES))
def test_of_each_shard_the_copy_with_the_most_blocks_is_served(deployed, number):
    task, data, _, memory, *_ = deployed
    variables, _ = update(deployed, of_slice(deployed, 1, number))
    blocks = block_numbers(task, memory.backbone, data, SLICES)
    best = int(TURNS[:, number].argmax())
    adapters = jax.tree.map(lambda leaf: leaf[1, best], memory.adapters)
    student = adapted(task, 8)
    expected = merge(student, memory.backbone, adapters, blocks, TURNS[best, number])
    served = jax.tree.map(lambda leaf: leaf[1], variables)
    problems.assert_trees_close(served, expected, rtol=1e-6)


def test_retained_data_is_needed_to_train_a_shard_anew():
    assert METHOD.needs == {"train", "forget", "retain", "inputs", "labels"}


def test_adapters_are_low_rank_or_full_and_their_first_factor_normal(deployed):
    """`N(0, 1 / rows)`, which no uniform distribution on its side reaches."""
    task, data, _, memory, *_ = deployed
    adapters = init_adapters(adapted(task, 8), data, jax.random.key(0))
    factor = adapters["Dense_0"]["kernel"]["a"]
    assert factor.shape == (64, 8) and float(jnp.abs(factor).max()) > 2 / 8
    np.testing.assert_allclose(factor.std(), 1 / 8, rtol=0.1)
    assert adapters["Dense_0"]["bias"]["offset"].shape == (24,)
    blocks = jax.tree.map(lambda _: 0, memory.backbone["params"])
    adapters = jax.tree.map(jnp.ones_like, adapters)
    for alive in (0, 1):
        merged = merge(adapted(task, 8), memory.backbone, adapters, blocks, alive)["params"]
        for layer, before in memory.backbone["params"].items():
            expected = (before["kernel"] + alive * 8, before["bias"] + alive)
            np.testing.assert_allclose(merged[layer]["kernel"], expected[0], rtol=1e-6)
            np.testing.assert_allclose(merged[layer]["bias"], expected[1], rtol=1e-6)


def test_what_a_task_has_frozen_stays_frozen_beside_the_adapters():
    task = problems.mlp((6,))
    data = {k: jnp.asarray(v) for k, v in problems.digits(24).items()}
    own = tasks.trained(task, ["Dense_1"])
    variables = tasks.split(problems.init(task, data), ["Dense_1"])
    method = unlearning.s3t(
        optax.adam(1e-2), num_slices=1, budget=1, rank=2, num_epochs=1, batch_size=12
    )
    deployed, memory = jax.jit(lambda rng: method.init(rng, own, variables, data))(
        jax.random.key(0)
    )
    deployed = jax.tree.map(lambda x: x[0], deployed)
    problems.assert_trees_equal(deployed["frozen"], variables["frozen"])
    before, after = (v["params"]["Dense_1"]["kernel"] for v in (memory.backbone, deployed))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("number", range(SLICES))
def test_what_is_served_never_saw_the_deleted_slice(deployed, number):
    """Spoiling every example of that slice before training changes nothing of what is served."""
    _, data, _, _, init, _ = deployed
    forgotten = of_slice(deployed, 0, number)
    everything = of_slice(deployed, 0, number, count=N)
    spoiled = {**data, "inputs": data["inputs"].at[everything].set(50.0)}
    served = []
    for version in (data, spoiled):
        _, memory = init(jax.random.key(0), version)
        served.append(update(deployed, forgotten, memory, version)[0])
    problems.assert_trees_equal(*(jax.tree.map(lambda x: x[0], v) for v in served))


def test_a_shard_without_blocks_is_trained_anew_without_the_forgotten(deployed):
    """Equal to the training of a shard in which they never were active."""
    task, data, _, memory, *_ = deployed
    forgotten = np.concatenate([of_slice(deployed, 0, n) for n in set(TURNS.argmin(1).tolist())])
    retrained, new = update(deployed, forgotten)
    np.testing.assert_array_equal(new.alive, SLICES)
    spoiled = {**data, "inputs": data["inputs"].at[forgotten].set(50.0)}
    again, _ = update(deployed, forgotten, data=spoiled)
    problems.assert_trees_equal(retrained, again)
    before, after = (jax.tree.map(lambda x: x[1], m.adapters) for m in (memory, new))
    problems.assert_trees_equal(before, after)  # the other shard
    accuracy = training.evaluate(METHOD.serve(task), retrained, data)["accuracy"].mean()
    assert accuracy > 0.75


def test_requests_follow_one_another(deployed):
    first, second = of_slice(deployed, 0, 2), of_slice(deployed, 0, 1)
    _, memory = update(deployed, first)
    both, _ = update(deployed, np.concatenate([first, second]))
    twice, memory = update(deployed, second, memory, also_gone=first)
    problems.assert_trees_equal(twice, both)
    task, data, *_ = deployed
    request = Request({k: v[second] for k, v in data.items()}, data)
    with pytest.raises(ValueError, match=f"must not be forgotten already, got {second[0]}"):
        METHOD.update(None, task, None, memory, request)


def test_ids_and_the_order_of_the_retain_set_do_not_matter(deployed):
    """Negative, huge, unsorted ids: the same bits, whether blocks are lost or trained anew."""
    _, data, _, _, init, forget = deployed
    rng = np.random.default_rng(0)
    index = rng.choice(2**32, N, replace=False) - 2**31
    renamed = {**data, "index": jnp.asarray(index, jnp.int32)}
    _, memory = init(jax.random.key(0), renamed)
    every_first = [of_slice(deployed, 0, n) for n in set(TURNS.argmin(1).tolist())]
    for forgotten in (of_slice(deployed, 1, 2), np.concatenate(every_first)):
        shuffled = rng.permutation(np.setdiff1d(np.arange(N), forgotten))
        parts = ({k: v[rows] for k, v in renamed.items()} for rows in (forgotten, shuffled))
        request = Request(*parts)
        updated, new = forget(memory, request)
        problems.assert_trees_equal(updated, update(deployed, forgotten)[0])
        # Again, with an unknown id in the first's place: nothing is switched off or trained.
        assert 5 not in index
        strange = {**request.forget, "index": request.forget["index"].at[0].set(5)}
        for part in (request.forget, strange):
            again, same = forget(new, request._replace(forget=part))
            problems.assert_trees_equal(again, updated)
            np.testing.assert_array_equal(same.alive, new.alive)


@pytest.mark.parametrize("name", ["num_shards", "num_slices", "budget", "rank", "num_epochs"])
def test_bad_values_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        unlearning.s3t(optax.sgd(0.1), **{name: 0})


def test_more_slices_than_layers_and_wrong_probabilities_are_refused(deployed):
    task, data, *_ = deployed
    deep = unlearning.s3t(optax.sgd(0.1), num_slices=4, budget=1)
    with pytest.raises(ValueError, match="num_slices must be at most the model's 3 layers, got 4"):
        deep.init(jax.random.key(0), task, None, data)
    with pytest.raises(ValueError, match="deletion_probability must have num_slices=4 entries"):
        unlearning.s3t(optax.sgd(0.1), deletion_probability=(0.5, 0.5), num_slices=4, budget=1)
