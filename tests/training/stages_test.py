import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearnjax import tasks, training
from unlearnjax.training import Stage


def counted(calls):
    """Three stages of which each adds a number of its own key to what the one before made."""

    def stage(name, before):
        def fit(rng, made):
            calls.append(name)
            assert list(made) == {"a": [], "b": ["a"], "c": ["a", "b"]}[name]
            return (made[before] if before else 0) + float(jax.random.uniform(rng))

        return Stage(name, fit)

    return [stage("a", None), stage("b", "a"), stage("c", "b")]


RNG = jax.random.key(3)
OWN = [float(jax.random.uniform(jax.random.fold_in(RNG, i))) for i in range(3)]


def test_each_stage_sees_what_was_made_and_has_the_key_of_its_position():
    calls = []
    made = training.run_stages(counted(calls), RNG)
    assert calls == ["a", "b", "c"] and list(made) == ["a", "b", "c"]
    np.testing.assert_allclose(list(made.values()), np.cumsum(OWN), rtol=1e-6)


def test_what_is_there_already_is_not_run():
    calls = []
    made = training.run_stages(counted(calls), RNG, {"b": 10.0})
    assert calls == ["a", "c"]
    np.testing.assert_allclose(list(made.values()), [OWN[0], 10, 10 + OWN[2]], rtol=1e-6)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_retraining_from_a_stage_keeps_those_before_it_alone(name):
    """Under the key of the run it is the run again, if the data are."""
    calls, whole = [], training.run_stages(counted([]), RNG)
    again = training.retrain_from(counted(calls), name, {**whole, "c": None}, RNG)
    assert again == whole and calls == ["a", "b", "c"]["abc".index(name) :]
    other = training.retrain_from(counted([]), name, {"a": 1.0, "b": 2.0}, RNG)
    kept = {"a": [], "b": ["a"], "c": ["a", "b"]}[name]
    assert all(other[own] == {"a": 1.0, "b": 2.0}[own] for own in kept)


def test_a_ladder_says_what_each_stage_remembers():
    """A mean, then the mean of what is left of it: closed forms of trainings on either data."""
    whole, retain = jnp.array([0.0, 1, 2, 9]), jnp.array([0.0, 1, 2])

    def stages(data):
        centre = lambda rng, made: data.mean()
        spread = lambda rng, made: ((data - made["centre"]) ** 2).mean()
        return [Stage("centre", centre), Stage("spread", spread)]

    original = training.run_stages(stages(whole), RNG)
    retrained = training.retrain_from(stages(retain), "centre", original, RNG)
    last = training.retrain_from(stages(retain), "spread", original, RNG)
    assert float(retrained["spread"]) == pytest.approx(2 / 3)
    assert float(last["spread"]) == pytest.approx(2 / 3 + 4)  # of what the first one remembers


def test_trainings_one_after_another():
    """The second one starts with what the first learned, which it only carries."""
    apply = lambda v, batch, rng, train: (
        {"logits": (v["params"]["w"] + v["first"]["w"]) * jnp.ones((len(batch["targets"]), 1))},
        v,
    )
    init = lambda rng, batch: {"params": {"w": jax.random.normal(rng)}}
    task = tasks.regression(tasks.Model(init, apply))
    data = lambda value: {"targets": jnp.full(4, value), "index": jnp.arange(4)}

    def fitted(value, start):
        def fit(rng, made):
            own = training.descent(task, optax.sgd(0.5))
            options = {"num_epochs": 40, "batch_size": 4, "start": start(made)}
            return training.fit(own, data(value), jnp.arange(4), rng, **options)[0]

        return fit

    zero = {"first": {"w": jnp.zeros(())}}
    stages = [
        Stage("first", fitted(3.0, lambda made: zero)),
        Stage("second", fitted(5.0, lambda made: {"first": made["first"]["params"]})),
    ]
    made = jax.jit(lambda rng: training.run_stages(stages, rng))(RNG)
    np.testing.assert_allclose(made["first"]["params"]["w"], 3, rtol=1e-5)
    np.testing.assert_allclose(made["second"]["params"]["w"], 2, rtol=1e-5)
    np.testing.assert_array_equal(made["second"]["first"]["w"], made["first"]["params"]["w"])


def test_bad_input_is_refused():
    stages = counted([])
    for wrong in ([], [stages[0], stages[0]]):
        with pytest.raises(ValueError, match="stages must be at least one, of distinct names"):
            training.run_stages(wrong, RNG)
    with pytest.raises(ValueError, match=r"start must be among \['a', 'b', 'c'\], got \['d'\]"):
        training.run_stages(stages, RNG, {"d": 1})
    with pytest.raises(ValueError, match=r"name must be one of .* got 'd'"):
        training.retrain_from(stages, "d", {}, RNG)
    with pytest.raises(ValueError, match=r"start must hold what \['a', 'b'\] made, got \['a'\]"):
        training.retrain_from(stages, "c", {"a": 1}, RNG)
