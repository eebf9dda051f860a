import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning import linear
from unlearnjax import training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.sisa import evenly, shard_members

N = 240
SHARDS, SLICES = 3, 2
METHOD = unlearning.sisa(
    optax.adam(5e-3), num_shards=SHARDS, num_slices=SLICES, num_epochs=4, batch_size=32
)


TASK = problems.mlp()
# Compiled once per size of a request; whatever ids are is traced.
INIT = jax.jit(lambda data: METHOD.init(jax.random.key(0), TASK, None, data))
FORGET = jax.jit(lambda memory, request: METHOD.update(None, TASK, None, memory, request))


@pytest.fixture(scope="module")
def deployed():
    """Examples weigh differently, so that it shows whether weights stay with their rows."""
    data = {k: jnp.asarray(v) for k, v in problems.digits(N).items()}
    weight = np.random.default_rng(0).uniform(0.5, 1.5, N)
    data["weight"] = jnp.asarray(weight, jnp.float32)
    return data, *INIT(data)


def request_of(data, forgotten, also_gone=()):
    forgotten = np.asarray(forgotten)
    kept = np.setdiff1d(np.arange(N), [*forgotten, *also_gone])
    return Request(*({k: v[rows] for k, v in data.items()} for rows in (forgotten, kept)))


def update(deployed, forgotten):
    data, _, memory = deployed
    return FORGET(memory, request_of(data, forgotten))


def test_shards_and_slices_partition_the_data_evenly(deployed):
    memory = deployed[2]
    counts = np.zeros((SHARDS, SLICES), int)
    np.add.at(counts, (np.asarray(memory.shard), np.asarray(memory.slice)), 1)
    assert counts.sum() == N and counts.min() >= N // (SHARDS * SLICES) - 1


@pytest.mark.parametrize("num_examples", [6, 7, 11])
def test_every_example_is_in_one_shard_and_one_slice(num_examples):
    """Also where they do not divide evenly, and places of a shard stay empty."""
    shard, order = evenly(jax.random.key(1), num_examples, 3, 2)
    assert set(np.asarray(shard)) == {0, 1, 2} and set(np.asarray(order)) == {0, 1}
    active = jnp.ones(num_examples).at[4].set(0.0)
    memory = types.SimpleNamespace(shard=shard, active=active)
    found = []
    for number in range(3):
        members, usable = shard_members(memory, number, 3)
        found += [int(m) for m, use in zip(members, usable, strict=True) if use]
    assert sorted(found) == [i for i in range(num_examples) if i != 4]


def test_retained_data_is_needed_to_train_a_shard_again():
    assert METHOD.needs == {"train", "forget", "retain", "inputs", "labels"}


def test_deleting_equals_never_having_had_the_examples(deployed):
    """Whatever slice they lie in: the model of shards that train from their first slice."""
    data, variables, memory = deployed
    # One example in the first slice of every shard makes all of them start over in a second run
    # whose checkpoints are useless; it is forgotten in both.
    shard, order = np.asarray(memory.shard), np.asarray(memory.slice)
    late = np.flatnonzero(order == SLICES - 1)[::20][:3]
    early = [np.flatnonzero((shard == s) & (order == 0))[0] for s in range(SHARDS)]
    _, step = update(deployed, early)
    resumed, _ = FORGET(step, request_of(data, late, also_gone=early))
    useless = memory._replace(checkpoints=jax.tree.map(jnp.zeros_like, memory.checkpoints))
    scratch, _ = FORGET(useless, request_of(data, np.union1d(late, early)))
    problems.assert_trees_close(resumed, scratch, rtol=1e-6)
    assert not np.allclose(
        scratch["params"]["Dense_0"]["kernel"], variables["params"]["Dense_0"]["kernel"]
    )


def test_every_slice_is_trained_on_beside_those_before_it():
    """Full-batch steps of seven examples in two shards of three slices, in NumPy."""
    data = linear.part(np.random.default_rng(0), 7, index=jnp.arange(7))
    data["weight"] = jnp.arange(1.0, 8.0)
    start = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
    task = linear.TASK._replace(init=lambda rng, batch: {"params": {"w": start}})
    method = unlearning.sisa(optax.sgd(0.5), num_shards=2, num_slices=3, num_epochs=2, batch_size=9)

    def check(deployed, memory, gone):
        for s in range(2):
            w = np.float64(start)
            for r in range(3):
                here = (np.asarray(memory.shard) == s) & (np.asarray(memory.slice) <= r) & ~gone
                for _ in range(2 * here.any()):
                    slopes = linear.cross_entropy_slopes(w, data)[here]
                    w = w - 0.5 * np.average(slopes, axis=0, weights=data["weight"][here])
                found = memory.checkpoints["params"]["w"][s, r]
                np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(deployed["params"]["w"][s], found)

    deployed, memory = method.init(jax.random.key(3), task, {}, data)
    check(deployed, memory, np.zeros(7, bool))
    gone = np.arange(7) == 2
    parts = ({k: v[rows] for k, v in data.items()} for rows in (gone, ~gone))
    deployed, memory = method.update(jax.random.key(0), task, deployed, memory, Request(*parts))
    check(deployed, memory, gone)


def test_shards_without_a_forgotten_example_are_untouched(deployed):
    _, variables, memory = deployed
    forgotten = np.flatnonzero(np.asarray(memory.shard) == 1)[:3]
    updated, new = update(deployed, forgotten)
    for s in (0, 2):
        problems.assert_trees_equal(
            *(jax.tree.map(lambda x, s=s: x[s], v) for v in (updated, variables))
        )
    kernels = [v["params"]["Dense_0"]["kernel"][1] for v in (updated, variables)]
    assert not np.array_equal(*kernels)
    assert int(new.active.sum()) == N - 3


def test_an_example_of_the_last_slice_leaves_the_earlier_checkpoints(deployed):
    memory = deployed[2]
    last = (np.asarray(memory.slice) == SLICES - 1) & (np.asarray(memory.shard) == 0)
    _, new = update(deployed, np.flatnonzero(last)[:3])
    problems.assert_trees_equal(
        *(jax.tree.map(lambda x: x[0, 0], m.checkpoints) for m in (new, memory))
    )


def test_the_forgotten_have_no_influence_on_what_is_served(deployed):
    """Two data sets that differ in the forgotten examples alone give one model after deletion."""
    data = deployed[0]
    spoiled = {**data, "inputs": data["inputs"].at[:3].set(100.0)}
    request = request_of(spoiled, np.arange(3))
    problems.assert_trees_equal(
        FORGET(INIT(spoiled)[1], request)[0], update(deployed, [0, 1, 2])[0]
    )


def test_requests_follow_one_another(deployed):
    first, second = [3, 40, 41], [7, 2, 90]
    _, once = update(deployed, first)
    # The second request's retain set lacks the first's examples as well.
    twice, _ = FORGET(once, request_of(deployed[0], second, also_gone=first))
    together, _ = update(deployed, first + second)
    problems.assert_trees_close(twice, together, rtol=1e-6)


def test_ids_and_the_order_of_the_retain_set_do_not_matter(deployed):
    """Negative, huge, unsorted ids and a shuffled retain set: the same bits."""
    data = deployed[0]
    rng = np.random.default_rng(0)
    index = rng.choice(2**32, N, replace=False) - 2**31
    renamed = {**data, "index": jnp.asarray(index, jnp.int32)}
    forgotten = np.array([50, 3, 120])
    kept = rng.permutation(np.setdiff1d(np.arange(N), forgotten))
    request = Request(*({k: v[rows] for k, v in renamed.items()} for rows in (forgotten, kept)))
    updated, memory = FORGET(INIT(renamed)[1], request)
    problems.assert_trees_equal(updated, update(deployed, forgotten)[0])
    np.testing.assert_array_equal(np.flatnonzero(memory.active == 0), [3, 50, 120])
    # What is unknown deletes nothing, and what is forgotten is not forgotten again.
    assert not np.isin([1, 2], index).any()
    strange = {**request.forget, "index": jnp.array([index[3], 1, 2])}
    again, same = FORGET(memory, request._replace(forget=strange))
    problems.assert_trees_equal(again, updated)
    np.testing.assert_array_equal(same.active, memory.active)


def test_a_request_that_cannot_be_met_is_refused(deployed):
    data, variables, memory = deployed
    _, once = update(deployed, [3, 4, 5])
    with pytest.raises(ValueError, match="must not be forgotten already, got 3"):
        METHOD.update(None, TASK, variables, once, request_of(data, [3], also_gone=[4, 5]))
    request = request_of(data, [4])
    stranger = {**request.forget, "index": jnp.array([N])}
    with pytest.raises(ValueError, match=f"must be of the training data, got {N}"):
        METHOD.update(None, TASK, variables, memory, request._replace(forget=stranger))
    with pytest.raises(ValueError, match="index of the training data must be unique"):
        METHOD.init(jax.random.key(0), TASK, None, {**data, "index": jnp.zeros(N, jnp.int32)})


def test_the_ensemble_is_served_as_mean_probabilities(deployed):
    data, variables, _ = deployed
    served = METHOD.serve(TASK)
    batch = {k: v[:9] for k, v in data.items()}
    outputs, _ = served.apply(variables, batch, None, False)
    single = [jax.tree.map(lambda x, s=s: x[s], variables) for s in range(SHARDS)]
    alone = [TASK.apply(v, batch, None, False)[0] for v in single]
    probs = [jax.nn.softmax(one["logits"]) for one in alone]
    np.testing.assert_allclose(
        jnp.exp(outputs["logits"]), np.mean(probs, axis=0), rtol=1e-4, atol=1e-6
    )
    features = np.mean([one["features"] for one in alone], axis=0)
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-4, atol=1e-6)
    accuracy = training.evaluate(served, variables, data)["accuracy"].mean()
    assert accuracy > 0.85


@pytest.mark.parametrize("name", ["num_shards", "num_slices", "num_epochs", "batch_size"])
def test_bad_values_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        unlearning.sisa(optax.sgd(0.1), **{name: 0})


def test_more_slices_than_examples_are_refused(deployed):
    small = {k: v[:5] for k, v in deployed[0].items()}
    with pytest.raises(ValueError, match="at most the 5 training examples, got 3 \\* 2"):
        METHOD.init(jax.random.key(0), TASK, None, small)


def test_a_transformation_that_averages_deploys_its_average():
    """With a decay of 1 that is what a slice starts from."""
    tx = training.averaged(optax.sgd(0.5), decay=1.0)
    method = unlearning.sisa(tx, num_shards=1, num_slices=2, num_epochs=1, batch_size=4)
    data = {k: jnp.asarray(v) for k, v in problems.digits(8).items()}
    _, memory = method.init(jax.random.key(0), problems.softmax_regression(), None, data)
    for number in range(2):
        kept = jax.tree.map(lambda x, n=number: x[:, n], memory.checkpoints)
        problems.assert_trees_equal(kept, memory.start)
