"""A training run of the commands: killed, gone on with, split over devices, begun elsewhere."""

import contextlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.common import fit as fit_lib
from tests import problems
from unlearnjax import parallel, tasks, training

OPTIONS = {"num_epochs": 4, "batch_size": 8, "checkpoint_every": 1}


def test_only_what_a_player_that_rests_lacks_may_be_non_finite():
    nan, zero, one = (np.full(1, value) for value in (np.nan, 0.0, 4.0))
    fit_lib._stop_if_not_finite("a", 1, {"x.m": nan, "x.weight": zero, "y.m": one}, None)
    for bad in ({"x.m": nan, "x.weight": one}, {"m": nan}, {"x.m": one, "x.weight": nan}):
        with pytest.raises(FloatingPointError, match="became non-finite in epoch 1"):
            fit_lib._stop_if_not_finite("a", 1, bad, None)


def test_every_player_has_a_curve_of_its_loss():
    history = {name: np.full(2, i) for i, name in enumerate(("d.loss", "d.weight", "g.h.loss"))}
    curves = fit_lib.loss_curves(history)
    assert {player: curve[0] for player, curve in curves.items()} == {"d": 0, "g.h": 2}
    assert list(fit_lib.loss_curves({"loss": np.ones(2), "accuracy": np.ones(2)})) == [""]
    assert fit_lib.loss_curves({"error": np.ones(2)}) == {}


def test_what_is_unset_is_nothing_else_to_have_learned():
    older = {"train": {"num_epochs": 2, "checkpoint_every": 1}}
    newer = {"train": {"num_epochs": 2, "checkpoint_every": 5, "recipe": None}}
    assert fit_lib.other_training(older, newer) == []
    (line,) = fit_lib.other_training(older, {"train": {**newer["train"], "recipe": "a:b"}})
    assert line == "config.train.recipe: stored None, now 'a:b'"


class Killed(BaseException):
    pass


def run_in(workdir, epochs=None):
    """A run of which so many epochs are seen to end."""
    left = iter(range(epochs)) if epochs is not None else None

    def advance(name, by=1, resumed=False):
        if left is not None and by == 1 and next(left, None) is None:
            raise Killed

    return types.SimpleNamespace(
        workdir=workdir,
        advance=advance,
        compiling=lambda name: contextlib.nullcontext(),
        events=lambda name, values: None,
    )


def game():
    """Two players, by the data and by noise: one is averaged, one acts in every other step."""
    model = lambda rng, batch: {
        "params": {
            "g": {"w": jax.random.normal(rng, (64, 3))},
            "d": {"w": jax.random.normal(jax.random.fold_in(rng, 1), (64, 3))},
        }
    }

    def apply(variables, batch, rng, train):
        params = variables["params"]
        flat = batch["inputs"].reshape(-1, 64)
        return {"logits": flat @ params["g"]["w"]}, variables

    task = tasks.classification(tasks.Model(model, apply))

    def loss(own, other):
        def loss_fn(variables, batch, rng):
            params = variables["params"]
            flat = batch["inputs"].reshape(-1, 64)
            noise = jax.random.normal(rng, (flat.shape[0], 3))
            error = flat @ (params[own]["w"] - params[other]["w"]) - noise
            losses = jnp.sum(error**2, axis=-1)
            return losses, ({"loss": losses}, variables)

        return loss_fn

    players = {
        "d": training.Player(loss("d", "g"), optax.adam(1e-2), every=2),
        "g": training.Player(loss("g", "d"), training.averaged(optax.adam(1e-2), decay=0.9)),
    }
    return task, lambda task: training.alternation(task, players)


@pytest.fixture(scope="module")
def data():
    digits = problems.digits(20)
    return {k: jnp.asarray(v) for k, v in digits.items() if k != "targets"}


def fitter(data, **options):
    task, recipe = game()
    return fit_lib.make_fit(task, recipe, data, jnp.arange(20), **{**OPTIONS, **options})


def test_two_players_killed_and_gone_on_with_are_bit_equal(data, tmp_path):
    rng = jax.random.key(7)
    whole = fitter(data).fit(run_in(tmp_path / "whole"), "original", rng)
    with pytest.raises(Killed):
        fitter(data).fit(run_in(tmp_path / "cut", 2), "original", rng)
    rest = fitter(data).fit(run_in(tmp_path / "cut", 3), "original", rng)
    problems.assert_trees_equal(rest.variables, whole.variables)
    problems.assert_trees_equal(dict(rest.history), dict(whole.history))
    assert sorted(whole.history) == ["d.loss", "d.weight", "g.loss", "g.weight"]
    assert all(np.isfinite(v).all() and len(v) == 4 for v in whole.history.values())
    # It is the run of the library, whose average is what is deployed.
    task, recipe = game()
    options = {"num_epochs": 4, "batch_size": 8}
    state, _ = training.train(task, recipe, data, jnp.arange(20), rng, **options)
    average = state.opt_state["g"].average
    problems.assert_trees_close(whole.variables["params"]["g"], average)
    problems.assert_trees_close(whole.variables["params"]["d"], state.variables["params"]["d"])
    apart = jnp.abs(average["w"] - state.variables["params"]["g"]["w"]).max()
    assert float(apart) > 1e-3


def test_two_players_split_over_devices_are_the_same(data, tmp_path, monkeypatch):
    rng, small = jax.random.key(7), {"num_epochs": 1}
    whole = fitter(data, **small).fit(run_in(tmp_path / "one"), "original", rng)
    split = parallel.split_shardings
    with jax.set_mesh(parallel.mesh(jax.devices()[:4])):
        monkeypatch.setattr(
            parallel, "split_shardings", lambda tree, mesh: split(tree, mesh, min_size=64)
        )
        placed = parallel.replicate(data, parallel.current())
        many = fitter(placed, shard_parameters=True, **small)
        result = many.fit(run_in(tmp_path / "four"), "original", rng)
    shapes = {leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(result.variables)}
    assert shapes == {(16, 3)}  # averages are split as the parameters are
    problems.assert_trees_close(parallel.fetch(result.variables), parallel.fetch(whole.variables))


def test_all_seeds_begin_with_what_is_given(data, tmp_path):
    """Whose arrays no epoch may use up."""
    task, recipe = game()
    given = {"params": {"g": {"w": jnp.ones((64, 3))}}}
    still = fitter(data, num_epochs=1, start=given)
    fits = [still.fit(run_in(tmp_path), f"original_{s}", jax.random.key(s)) for s in range(2)]
    options = {"num_epochs": 1, "batch_size": 8, "start": given}
    for seed, found in enumerate(fits):
        args = (data, jnp.arange(20), jax.random.key(seed))
        expected, _ = training.fit(recipe(task), *args, **options)
        problems.assert_trees_close(found.variables, expected)
    assert given["params"]["g"]["w"].sum() == 192.0


def test_what_else_a_run_has_trained_is_taken_if_it_is_what_would_be_trained(tmp_path):
    """Judges only where the same ones are asked for, nothing twice, nothing that is not there."""
    other, own = tmp_path / "other", tmp_path / "own"
    judges = {"train": {"num_epochs": 3}}
    for name in ("base", "judge0", "judge1"):
        (other / "checkpoints" / name).mkdir(parents=True)
        (other / "checkpoints" / name / "weights").write_text(name)
    (other / "config.json").write_text(json.dumps({"evaluate": {"judges": judges}}))
    names = ("base", "judge0", "judge1", "judge2")
    own.mkdir()
    run = types.SimpleNamespace(workdir=own, config={"evaluate": {"judges": {"train": {}}}})
    fit_lib.take_stages(run, names, other)
    assert [path.name for path in (own / "checkpoints").iterdir()] == ["base"]
    (own / "checkpoints" / "base" / "weights").write_text("gone on with")
    run.config = {"evaluate": {"judges": judges}}
    fit_lib.take_stages(run, names, other)
    found = {p.name: (p / "weights").read_text() for p in (own / "checkpoints").iterdir()}
    assert found == {"base": "gone on with", "judge0": "judge0", "judge1": "judge1"}
    fit_lib.take_stages(run, names, tmp_path / "nowhere")
    assert not list(own.glob("*.partial"))
