import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import training, unlearning
from unlearnjax.types import Request

N = 240
SHARDS, SLICES = 3, 2
METHOD = unlearning.sisa(
    optax.adam(5e-3), num_shards=SHARDS, num_slices=SLICES, num_epochs=4, batch_size=32
)


@pytest.fixture(scope="module")
def deployed():
    data = {k: jnp.asarray(v) for k, v in problems.digits(N).items()}
    task = problems.mlp()
    variables, memory = jax.jit(lambda rng: METHOD.init(rng, task, None, data))(jax.random.key(0))
    return task, data, variables, memory


def request_of(data, forgotten):
    mask = np.isin(np.arange(N), forgotten)
    return Request(*({k: v[m] for k, v in data.items()} for m in (mask, ~mask)))


def update(deployed, forgotten, memory=None):
    task, data, variables, own = deployed
    request = request_of(data, forgotten)
    return jax.jit(lambda m: METHOD.update(None, task, variables, m, request))(memory or own)


def test_shards_and_slices_partition_the_data_evenly(deployed):
    memory = deployed[3]
    counts = np.zeros((SHARDS, SLICES), int)
    np.add.at(counts, (np.asarray(memory.shard), np.asarray(memory.slice)), 1)
    assert counts.sum() == N and counts.min() >= N // (SHARDS * SLICES) - 1


def test_deleting_equals_never_having_had_the_examples(deployed):
    """Whatever slice they lie in: the model of shards that train from their first slice."""
    task, data, variables, memory = deployed
    # One example in the first slice of every shard makes all of them start over in a second run
    # whose checkpoints are useless; it is forgotten in both.
    shard, order = np.asarray(memory.shard), np.asarray(memory.slice)
    late = np.flatnonzero(order == SLICES - 1)[::20]
    early = [np.flatnonzero((shard == s) & (order == 0))[0] for s in range(SHARDS)]
    _, step = update(deployed, early)
    request = request_of(data, np.union1d(late, early))
    forget_late = {k: v[late] for k, v in data.items()}
    resumed, _ = METHOD.update(None, task, None, step, Request(forget_late, request.retain))
    useless = memory._replace(checkpoints=jax.tree.map(jnp.zeros_like, memory.checkpoints))
    scratch, _ = METHOD.update(None, task, None, useless, request)
    problems.assert_trees_close(resumed, scratch, rtol=1e-6)
    assert not np.allclose(
        scratch["params"]["Dense_0"]["kernel"], variables["params"]["Dense_0"]["kernel"]
    )


def test_shards_without_a_forgotten_example_are_untouched(deployed):
    task, data, variables, memory = deployed
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
    task, data, variables, memory = deployed
    last = (np.asarray(memory.slice) == SLICES - 1) & (np.asarray(memory.shard) == 0)
    _, new = update(deployed, np.flatnonzero(last)[:2])
    problems.assert_trees_equal(
        *(jax.tree.map(lambda x: x[0, 0], m.checkpoints) for m in (new, memory))
    )


def test_the_forgotten_have_no_influence_on_what_is_served(deployed):
    """Two data sets that differ in the forgotten examples alone give one model after deletion."""
    task, data, _, _ = deployed
    forgotten = np.arange(5)
    spoiled = {**data, "inputs": data["inputs"].at[:5].set(100.0)}
    results = []
    for version in (data, spoiled):
        variables, memory = METHOD.init(jax.random.key(0), task, None, version)
        request = request_of(version, forgotten)
        results.append(METHOD.update(None, task, variables, memory, request)[0])
    problems.assert_trees_equal(*results)


def test_requests_follow_one_another(deployed):
    _, data, _, memory = deployed
    _, once = update(deployed, [3])
    # The second request's retain set lacks the first's example as well.
    task = deployed[0]
    forget = {k: v[7:8] for k, v in data.items()}
    keep = ~np.isin(np.arange(N), [3, 7])
    retain = {k: v[keep] for k, v in data.items()}
    twice, _ = METHOD.update(None, task, None, once, Request(forget, retain))
    together, _ = update(deployed, [3, 7])
    problems.assert_trees_close(twice, together, rtol=1e-6)


def test_the_ensemble_is_served_as_mean_probabilities(deployed):
    task, data, variables, _ = deployed
    served = METHOD.serve(task)
    batch = {k: v[:9] for k, v in data.items()}
    outputs, _ = served.apply(variables, batch, None, False)
    single = [jax.tree.map(lambda x, s=s: x[s], variables) for s in range(SHARDS)]
    logits = [task.apply(v, batch, None, False)[0]["logits"] for v in single]
    probs = [jax.nn.softmax(x) for x in logits]
    np.testing.assert_allclose(
        jnp.exp(outputs["logits"]), np.mean(probs, axis=0), rtol=1e-4, atol=1e-6
    )
    accuracy = training.evaluate(served, variables, data)["accuracy"].mean()
    assert accuracy > 0.85


@pytest.mark.parametrize("name", ["num_shards", "num_slices", "num_epochs", "batch_size"])
def test_bad_values_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        unlearning.sisa(optax.sgd(0.1), **{name: 0})


def test_more_slices_than_examples_are_refused(deployed):
    task, data, _, _ = deployed
    small = {k: v[:5] for k, v in data.items()}
    with pytest.raises(ValueError, match="at most the 5 training examples, got 3 \\* 2"):
        METHOD.init(jax.random.key(0), task, None, small)
