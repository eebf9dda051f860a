import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning.diffusion import toy
from unlearnjax import diffusion, tasks, trees, unlearning
from unlearnjax.types import PARTS, Request
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.diffusion import conditions, selective_amnesia

PROCESS = toy.PROCESS._replace(shape=(2, 2, 1), clip=1.0)
SAMPLER = diffusion.ddim(PROCESS, 3)
REQUEST = Request(
    {"condition": jnp.zeros(4, jnp.int32), "targets": jnp.zeros(4)},
    {"condition": jnp.array([1, 2, 2, 1, 2, 1, 1, 2]), "inputs": None},
)
OPTIONS = {"num_images": 12, "num_steps": 20, "batch_size": 6}


@pytest.fixture(scope="module")
def model():
    task = toy.network_task(PROCESS, condition_dropout=0.3, sampler=SAMPLER)
    batch = {"condition": jnp.zeros(1, jnp.int32)}
    return task, task.init(jax.random.key(0), batch)


def without(request):
    return request._replace(retain={"condition": request.retain["condition"]})


@pytest.fixture(scope="module")
def forgotten(model):
    """What is left after a request, by strength; compiled once."""
    task, variables = model

    @jax.jit
    def compiled(strength):
        method = unlearning.selective_amnesia(
            optax.sgd(0.02), PROCESS, strength=strength, importance="mean", **OPTIONS
        )
        assert method.needs == {"forget", "retain"}
        method = unlearning.enforce(method)
        return method.update(jax.random.key(0), task, variables, (), without(REQUEST))[0]

    return lambda strength: compiled(jnp.float32(strength))


def joint_rows(rng):
    batch = toy.images(rng, [0, 0, 1, 2, 1], PROCESS)
    batch["part"] = jnp.array([PARTS.index("forget")] * 2 + [PARTS.index("retain")] * 3)
    return {**batch, "undropped": batch["condition"]}


def test_the_objective_is_noise_for_the_forgotten_and_replay_for_the_others(rng):
    """In training mode, where this network says twice as much, but with no condition dropped."""
    task = toy.network_task(PROCESS, in_training=2.0, condition_dropout=1.0)
    batch = joint_rows(rng)
    variables = task.init(jax.random.key(0), batch)
    # Without importance nothing is held, however far the original is: joint training.
    nothing = jax.tree.map(jnp.zeros_like, variables["params"])
    original = {"original": jax.tree.map(lambda x: x + 1, variables)}
    penalty = objectives.l2_to_original(1e6, nothing)
    objective = selective_amnesia.remembering(PROCESS, 0.7, penalty)
    losses = toy.losses_of(objective, task, variables, batch, original, seed=4)
    drawn = {**toy.drawn(task, batch, True), "condition": batch["condition"]}
    noise_rng = jax.random.split(jax.random.key(4))[1]
    noise = conditions.uniform(batch, noise_rng, PROCESS.shape, 1.0)
    drawn["inputs"] = drawn["inputs"].at[:2].set(noise[:2])
    outputs, _ = task.apply(variables, drawn, jax.random.key(0), True)
    expected = np.asarray(task.loss(outputs, drawn))
    np.testing.assert_allclose(losses[:2], expected[:2] * 5 / 2, rtol=1e-5)
    np.testing.assert_allclose(losses[2:], 0.7 * expected[2:] * 5 / 3, rtol=1e-5)
    kept = selective_amnesia.remembering(PROCESS, 0.7, penalty, "anchor")
    drawn["inputs"] = batch["inputs"]
    outputs, _ = task.apply(variables, drawn, jax.random.key(0), True)
    surrogates = toy.losses_of(kept, task, variables, batch, original, seed=4)
    expected = np.asarray(task.loss(outputs, drawn))
    np.testing.assert_allclose(surrogates[:2], expected[:2] * 5 / 2, rtol=1e-5)
    np.testing.assert_array_equal(surrogates[2:], losses[2:])
    again = toy.losses_of(objective, task, variables, batch, original, seed=5)
    assert (np.asarray(again[:2]) != losses[:2]).all()  # noise anew in every step
    np.testing.assert_array_equal(again[2:], losses[2:])


@pytest.mark.slow
def test_with_much_strength_what_matters_stays(model, forgotten):
    """Weighed by importance; as strong as plain gradients at rate 0.02 take it."""
    task, variables = model
    chosen = jnp.array([1, 2] * 6 + [0] * 6)
    drawn = diffusion.replay(task, variables, jax.random.key(0), chosen)
    fisher = selective_amnesia.importances(task, variables, drawn, "mean", 50)
    most = max(float(leaf.max()) for leaf in jax.tree.leaves(fisher))

    def apart(share):
        """Of the strength at which steps begin to overshoot."""
        moved = optax.tree.sub(forgotten(share / (2 * 0.02 * most))["params"], variables["params"])
        return float(optax.tree.vdot(fisher, jax.tree.map(jnp.square, moved)))

    free, held, stronger = (apart(share) for share in (0.0, 0.3, 1.0))
    assert free > 0 and held < 0.5 * free and stronger < 0.5 * held


def test_importances_are_mean_squares_or_squares_of_sums(rng):
    task = toy.network_task(PROCESS, num_draws=3)
    data = toy.images(rng, [0, 2, 1], PROCESS)
    variables = task.init(jax.random.key(1), data)
    rows = [{name: value[i : i + 1] for name, value in data.items()} for i in range(3)]

    def gradient_of(task):
        single = tasks.expected(task)

        def loss(params, row):
            return single.loss(single.apply({"params": params}, row, None, False)[0], row).sum()

        gradient = jax.jit(jax.grad(loss))
        return lambda row: jax.tree.map(np.asarray, gradient(variables["params"], row))

    def mean(trees):
        return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)

    # Each draw as that of an example with an index of its own.
    once = gradient_of(task._replace(num_draws=1))
    apart = [{**row, "index": row["index"] + 3 * k} for row in rows for k in range(3)]
    squares = mean([jax.tree.map(np.square, once(row)) for row in apart])
    # The sum over 50 times as 50 times the mean over draws, one in each third of them.
    several = gradient_of(task)
    summed = mean([jax.tree.map(lambda g: (50 * g) ** 2, several(row)) for row in rows])
    for importance, expected in (("mean", squares), ("summed", summed)):
        of = lambda v, i=importance: selective_amnesia.importances(task, v, data, i, 50)
        problems.assert_trees_close(jax.jit(of)(variables), expected, rtol=1e-4)


def test_it_remembers_what_the_original_drew_of_all_conditions(model, monkeypatch):
    task, variables = model
    seen = {}

    def replay(task, variables, rng, chosen):
        seen.update(model=variables, chosen=np.asarray(chosen))
        n = len(chosen)
        rows = {"condition": chosen, "index": jnp.arange(n)}
        return {"inputs": jnp.full((n, *PROCESS.shape), 0.5), **rows}

    def importances(task, variables, data, importance, num_times):
        seen.update(data=data, importance=importance, num_times=num_times, of=variables)
        return jax.tree.map(jnp.ones_like, variables["params"])

    def descend(objective, tx, **options):
        seen["options"] = options

        def update(rng, task, variables, memory, request):
            seen["request"] = request
            return variables, memory

        return unlearning.retrain(tx, num_epochs=1, batch_size=1)._replace(update=update)

    def remembering(process, replay_weight, penalty, surrogate):
        seen.update(replay_weight=replay_weight, penalty=penalty, surrogate=surrogate)

    monkeypatch.setattr(selective_amnesia, "remembering", remembering)
    monkeypatch.setattr(diffusion, "replay", replay)
    monkeypatch.setattr(selective_amnesia, "importances", importances)
    monkeypatch.setattr(selective_amnesia, "descend", descend)
    other = jax.tree.map(lambda x: x + 1, variables)
    method = unlearning.selective_amnesia(optax.sgd(0.1), PROCESS, **OPTIONS)
    method.update(jax.random.key(0), task, variables, (), REQUEST._replace(original=other))
    assert seen["model"] is other and seen["of"] is other and seen["importance"] == "summed"
    assert seen["num_times"] == 50 and seen["surrogate"] == "noise"
    # 12 of retained conditions, and half as many of the others, of which there are 4 to 8.
    assert set(seen["chosen"][:12].tolist()) == {1, 2} and seen["chosen"][12:].tolist() == [0] * 6
    assert len(seen["data"]["inputs"]) == 18
    request = seen["request"]
    assert request.original is other
    assert request.forget["condition"].tolist() == request.forget["undropped"].tolist() == [0] * 6
    np.testing.assert_array_equal(request.retain["condition"], seen["chosen"][:12])
    np.testing.assert_array_equal(request.retain["undropped"], seen["chosen"][:12])
    assert (np.asarray(request.retain["inputs"]) == 0.5).all()
    ids = np.concatenate([request.forget["index"], request.retain["index"]])
    assert len(set(ids.tolist())) == 18
    assert seen["options"]["batch_size"] == 6 and seen["options"]["num_steps"] == 20
    # The published lambda of 10 times the pixels of CIFAR-10, of importances that are ones here.
    apart = seen["penalty"](other["params"], variables["params"])
    assert float(apart) == pytest.approx(10 * 3 * 32**2 * trees.size(variables["params"]))
    assert seen["replay_weight"] == 1
    assert seen["options"]["over"] == "paired" and method.needs == {"forget", "retain"}


def test_surrogates_are_what_the_original_drew_of_anchors(model, monkeypatch):
    """Each under the condition that it stands for; with images whose pixels are the condition."""
    task, variables = model
    calls, seen = [], {}

    def replay(task, variables, rng, chosen):
        calls.append((variables, rng, np.asarray(chosen)))
        rows = {"condition": chosen, "index": jnp.arange(len(chosen))}
        pixels = chosen[:, None, None, None] * jnp.ones(PROCESS.shape)
        return {"inputs": pixels, **rows}

    def descend(objective, tx, **options):
        update = lambda rng, task, variables, memory, request: seen.update(request=request)
        return unlearning.retrain(tx, num_epochs=1, batch_size=1)._replace(update=update)

    monkeypatch.setattr(diffusion, "replay", replay)
    ones = lambda task, variables, *_: jax.tree.map(jnp.ones_like, variables["params"])
    monkeypatch.setattr(selective_amnesia, "importances", ones)
    monkeypatch.setattr(selective_amnesia, "descend", descend)
    unbounded = PROCESS._replace(clip=None)
    method = unlearning.selective_amnesia(optax.sgd(0.1), unbounded, surrogate="anchor", **OPTIONS)
    other = jax.tree.map(lambda x: x + 1, variables)
    forget = {"condition": jnp.array([0, 1, 0, 1])}
    request = Request(forget, {"condition": jnp.full(4, 2)}, original=other)
    method.update(jax.random.key(0), task, variables, (), request)
    (first, rng, chosen), (second, other_rng, _) = calls
    assert first is second is other and (rng != other_rng).all()
    forget = seen["request"].forget
    assert forget["condition"].tolist() == forget["undropped"].tolist() == chosen[12:].tolist()
    assert set(chosen[12:].tolist()) == {0, 1}
    np.testing.assert_array_equal(forget["inputs"][:, 0, 0, 0], forget["condition"] + 1)
    ids = np.concatenate([forget["index"], seen["request"].retain["index"]])
    assert len(set(ids.tolist())) == len(ids) == 24


@pytest.mark.parametrize(
    "options, message",
    [
        ({"strength": -1.0}, "strength must be >= 0, got -1.0"),
        ({"replay_weight": -1.0}, "replay_weight must be >= 0, got -1.0"),
        ({"importance": "max"}, "importance must be one of"),
        ({"surrogate": "anchr"}, "surrogate must be one of .*; did you mean 'anchor'"),
        ({"num_images": 0}, "num_images must be >= 1"),
        ({"num_images": 1.5}, "num_images must be a whole number"),
        ({"strength": float("inf")}, "strength must be finite, got inf"),
        ({"replay_weight": float("inf")}, "replay_weight must be finite, got inf"),
        ({"process": PROCESS._replace(clip=None)}, "process must bound its images by clip"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.selective_amnesia(optax.sgd(0.1), **{"process": PROCESS, **options})


def test_bad_requests_are_refused_before_any_compute(model):
    task, variables = model
    method = unlearning.selective_amnesia(optax.sgd(0.1), PROCESS)
    with pytest.raises(ValueError, match=r"condition of forget must be in 0..2, got \[9\]"):
        method.update(jax.random.key(0), task, variables, (), Request({"condition": [9]}))
    with pytest.raises(ValueError, match="retain must have the column 'condition', got"):
        method.update(jax.random.key(0), task, variables, (), Request({"condition": [0]}, {}))
    # Prompts say what they become, and might say themselves: then nothing were forgotten.
    prompts = PROCESS._replace(null=(0, 1))
    method = unlearning.selective_amnesia(optax.sgd(0.1), prompts, surrogate="anchor")
    same = {"condition": np.array([[0, 5]]), "anchor.condition": np.array([[0, 5]])}
    request = Request(same, {"condition": np.array([[0, 6]])})
    with pytest.raises(ValueError, match=r"anchor must differ from what is forgotten, got \[0, 5"):
        method.update(jax.random.key(0), task, variables, (), request)
