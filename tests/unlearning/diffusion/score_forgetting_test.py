import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning.diffusion import toy
from unlearnjax import tasks, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.diffusion import distillation

PROCESS = toy.PROCESS._replace(shape=(4, 4, 1))
TASK = toy.gaussian_task(PROCESS)
MEAN, VAR = np.array([0.5, -0.5, 0.2, 0.0]), np.array([0.2, 0.1, 0.3, 1.0])
START = jax.tree.map(lambda x: x.astype(jnp.float32), toy.variables_of(MEAN, np.log(VAR)))
REQUEST = Request(
    {"condition": jnp.zeros(5, jnp.int32)},
    {"condition": jnp.array([1, 2] * 10), "targets": jnp.zeros(20, int)},
)
OPTIONS = {"num_steps": 1, "batch_size": 8, "t_init": 25, "t_min": 2, "t_max": 40}


def run(method, seed=1, distil=False):
    """The model and memory after `init` and, where not distilled alone, one request."""
    method = unlearning.enforce(method)
    variables, memory = method.init(jax.random.key(seed), TASK, START, None)
    if distil:
        return variables, memory
    return method.update(jax.random.key(seed), TASK, variables, memory, REQUEST)


@pytest.fixture(scope="module")
def one_step():
    """A step of plain gradients, compiled once for all hyper-parameters."""

    @jax.jit
    def compiled(values):
        return run(unlearning.score_forgetting(optax.sgd(1.0), PROCESS, **OPTIONS, **values))

    def moved(**values):
        defaults = {
            "retain_weight": 1.0,
            "forget_weight": 1.0,
            "alpha": 1.2,
            "score_rate": 1.0,
            "clip": 1e9,
            "decay": 0.5,
        }
        return compiled({**defaults, **values})

    return moved


def test_the_generators_fixed_point_is_the_data_and_the_anchors_for_the_forgotten():
    """Scores are linear here, so mean and variance of each condition's images are all there is."""
    method = unlearning.score_forgetting(
        optax.adam(0.03, b1=0.0), PROCESS, num_steps=600, batch_size=32, decay=0.99
    )
    before, memory = method.init(None, TASK, START, None)
    problems.assert_trees_equal(before, START)
    variables, memory = jax.jit(
        lambda key: unlearning.enforce(method).update(key, TASK, START, memory, REQUEST)
    )(jax.random.key(0))
    ab = PROCESS.schedule.alphas_bar[distillation.times_of(PROCESS).init]
    mean, var = np.asarray(variables["params"]["mean"]), np.exp(variables["params"]["log_var"])
    # x_0 seen in pure noise of variance 1 - ab by the posterior mean of N(mean, var).
    told = ab * var + 1 - ab
    drawn_mean, drawn_var = (1 - ab) * mean / told, ab * (1 - ab) * (var / told) ** 2
    anchored = [1, 1, 2]
    np.testing.assert_allclose(drawn_mean[:3], MEAN[anchored], atol=0.04)
    np.testing.assert_allclose(drawn_var[:3], VAR[anchored], rtol=0.15)
    problems.assert_trees_equal(memory.true, START["params"])
    # The deployed model is the generator's average, of the structure of the one given.
    assert jax.tree.structure(variables) == jax.tree.structure(START)


def test_both_parts_have_their_weights_in_both_losses(one_step):
    for name, still, moving in (("forget_weight", [0], [1, 2]), ("retain_weight", [1, 2], [0])):
        _, memory = one_step(**{name: 0.0})
        for player in ("generator", "fake_score"):
            params = memory.state.variables["params"][player]
            for key, before in START["params"].items():
                changed = np.asarray(params[key]) != np.asarray(before)
                assert not changed[still].any() and changed[moving].all()


def test_the_fake_score_moves_first(one_step):
    """Else a retained condition's scores were equal in the first step, and nothing to learn."""
    variables, memory = one_step(decay=0.0)
    problems.assert_trees_equal(variables["params"], memory.state.variables["params"]["generator"])
    moved = memory.state.variables["params"]["generator"]["mean"] - START["params"]["mean"]
    assert (np.abs(moved[1:3]) > 1e-3).all()


def test_gradients_of_sums_over_pixels_are_clipped_by_value(one_step):
    """With rate 1 a step goes no further than `clip / pixels`; psi `score_rate` times."""
    _, memory = one_step(clip=1e-3, score_rate=3.0)
    most = 1e-3 / 16
    for player, rate in (("generator", 1), ("fake_score", 3)):
        params = memory.state.variables["params"][player]
        moved = jax.tree.leaves(optax.tree.sub(params, START["params"]))
        largest = max(float(np.abs(leaf).max()) for leaf in moved)
        assert largest == pytest.approx(rate * most, rel=0.01)  # rounding of sums near 1


def test_the_average_is_deployed(one_step):
    still, _ = one_step(decay=1.0)
    problems.assert_trees_equal(still["params"], START["params"])
    half, memory = one_step(decay=0.5)
    raw = memory.state.variables["params"]["generator"]["mean"]
    between = np.asarray(half["params"]["mean"][:3])
    low, high = np.minimum(raw, MEAN)[:3], np.maximum(raw, MEAN)[:3]
    assert (low < between).all() and (between < high).all()


def test_alpha_is_of_the_generators_loss(one_step):
    one, two = (one_step(alpha=a)[1].state.variables["params"] for a in (0.5, 1.2))
    apart = optax.tree.sub(one["generator"], two["generator"])
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(apart))


@pytest.mark.slow
def test_a_stream_of_requests_goes_on_and_distillation_comes_before_it():
    options = {**OPTIONS, "distil_steps": 3, "decay": 0.0}
    method = unlearning.score_forgetting(optax.adam(1e-2), PROCESS, **options)
    assert method.needs == {"forget", "retain"}
    variables, memory = run(method, distil=True)
    generator = memory.state.variables["params"]["generator"]
    problems.assert_trees_equal(variables["params"], generator)
    # Distillation asks for every condition, and for nothing else.
    moved = np.asarray(generator["mean"] != START["params"]["mean"])
    assert moved.tolist() == [True, True, True, False]
    count = lambda memory: optax.tree.get(memory.state.opt_state["fake_score"], "count")
    assert int(count(memory)) == 3
    later, after = unlearning.enforce(method).update(
        jax.random.key(1), TASK, START, memory, REQUEST
    )
    assert int(count(after)) == 4
    assert int(after.state.step) == 3  # steps begin anew; a pass over 20 rows has three of 8
    # A step of Adam at 0.01 from where it stood, not from the model itself.
    apart = np.abs(later["params"]["mean"] - generator["mean"])[:3]
    assert (apart < 0.0101).all() and (apart > 0).all()
    assert (np.abs(generator["mean"] - START["params"]["mean"])[:3] > 0.0101).all()


def test_both_parts_are_rows_of_their_own(monkeypatch):
    """Each is drawn for apart, and the forgotten ask the true score about what they become."""
    module = importlib.import_module("unlearnjax.unlearning.diffusion.score_forgetting")
    seen = {}

    def run_parts(step, state, rng, parts, **options):
        seen.update(options, parts=parts)
        return state, ()

    monkeypatch.setattr(module, "run_parts", run_parts)
    for anchor, becomes in ((None, 1), (2, 2)):
        run(unlearning.score_forgetting(optax.sgd(1.0), PROCESS, anchor=anchor, **OPTIONS))
        forget, retain = (seen["parts"][name] for name in ("forget", "retain"))
        assert set(forget["condition"].tolist()) == {0}
        assert set(forget["anchor.condition"].tolist()) == {becomes}
        np.testing.assert_array_equal(retain["anchor.condition"], retain["condition"])
        assert set(retain["condition"].tolist()) == {1, 2}
        ids = np.concatenate([forget["index"], retain["index"]])
        assert len(set(ids.tolist())) == len(ids)
    assert (seen["over"], seen["along"], seen["num_steps"]) == ("paired", "retain", 1)


def test_networks_run_in_training_mode_where_they_move():
    """The generator that draws for psi, and both scores of what it draws, do not."""
    modes = []

    def apply(variables, batch, rng, train):
        modes.append(train)
        return TASK.apply(variables, batch, rng, train)

    method = unlearning.score_forgetting(optax.sgd(1.0), PROCESS, **OPTIONS)
    memory = method.init(None, TASK, START, None)[1]
    task = TASK._replace(apply=apply)
    jax.eval_shape(lambda key: method.update(key, task, START, memory, REQUEST), jax.random.key(0))
    # Each loss may be traced several times, its passes in their order.
    assert len(modes) % 5 == 0
    assert modes[:2] == [False, True] and modes[-3:] == [True, False, False]


def test_it_serves_a_task_of_one_step():
    served = unlearning.score_forgetting(optax.sgd(0.1), PROCESS, **OPTIONS).serve(TASK)
    batch = {"condition": jnp.array([0, 1]), "index": jnp.arange(2)}
    expected = distillation.one_step_task(TASK, PROCESS, OPTIONS["t_init"])
    found, by_hand = (
        tasks.generate(task, START, jax.random.key(0), batch)["images"]
        for task in (served, expected)
    )
    np.testing.assert_array_equal(found, by_hand)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"anchor": 3}, "anchor must be a condition in 0..2, got 3"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"retain_weight": -1.0}, "retain_weight must be >= 0, got -1.0"),
        ({"forget_weight": -0.1}, "forget_weight must be >= 0, got -0.1"),
        ({"score_rate": 0.0}, "score_rate must be > 0"),
        ({"clip": 0.0}, "clip must be > 0"),
        ({"decay": 1.5}, "decay must lie in"),
        ({"t_init": 50}, "t_init must be in 0..49, got 50"),
        ({"t_min": 40, "t_max": 40}, "t_min must be less than t_max"),
        ({"retain_weight": float("inf")}, "retain_weight must be finite, got inf"),
        ({"forget_weight": float("inf")}, "forget_weight must be finite, got inf"),
        ({"retain_weight": 0, "forget_weight": 0}, r"retain_weight \+ forget_weight must be > 0"),
        ({"alpha": float("inf")}, "alpha must be finite, got inf"),
        ({"score_rate": float("inf")}, "score_rate must be finite, got inf"),
        ({"clip": "a"}, "clip must be a number, got 'a'"),
        ({"distil_steps": -1}, "distil_steps must be >= 0"),
        ({"distil_steps": 0.5}, "distil_steps must be a whole number"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.score_forgetting(optax.sgd(0.1), PROCESS, **options)


def test_bad_requests_are_refused_before_any_compute():
    method = unlearning.score_forgetting(optax.sgd(0.1), PROCESS, anchor=0, **OPTIONS)
    with pytest.raises(ValueError, match="anchor must not be forgotten itself"):
        method.update(None, TASK, START, None, REQUEST)
    unnamed = Request({"condition": np.array([1])}, {"index": np.arange(3)})
    with pytest.raises(ValueError, match="retain must have the column 'condition'"):
        method.update(None, TASK, START, None, unnamed)
