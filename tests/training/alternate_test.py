import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tests import problems
from unlearnjax import data as data_lib
from unlearnjax import parallel, tasks, training
from unlearnjax.training import Player, ensembles

N = 24
OPTIONS = {"num_epochs": 3, "batch_size": 10}  # the last batch is padded
ADAM = optax.adam(0.05)


def one_player(part):
    """The digits' task, its parameters all that there is, or one entry of them."""
    augment = lambda rng, example: data_lib.pad_crop_flip(rng, example, padding=1)
    plain = tasks.augmented(problems.mlp((3,)), augment)
    if part == training.WHOLE:
        return plain, plain

    def init(rng, batch):
        return {"params": {part: plain.init(rng, batch)["params"]}}

    def apply(variables, batch, rng, train):
        outputs, _ = plain.apply({"params": variables["params"][part]}, batch, rng, train)
        return outputs, variables

    return plain, plain._replace(init=init, apply=apply)


@pytest.mark.parametrize("part", [training.WHOLE, "model"])
def test_one_player_is_plain_training_bit_for_bit(digits, part):
    data = {k: jnp.asarray(v[:N]) for k, v in digits.items()}
    plain, task = one_player(part)
    players = {"model": Player(training.supervised(task), ADAM, part=part)}
    args = (data, jnp.arange(N), jax.random.key(3))
    expected, history = jax.jit(lambda: training.train(plain, ADAM, *args, **OPTIONS))()
    alone = lambda task: training.alternation(task, players)
    actual, own_history = jax.jit(lambda: training.train(task, alone, *args, **OPTIONS))()
    params, opt_state = actual.variables["params"], actual.opt_state["model"]
    params = params if part == training.WHOLE else params[part]
    problems.assert_trees_equal(params, expected.variables["params"])
    problems.assert_trees_equal(opt_state, expected.opt_state)
    problems.assert_trees_equal(dict(own_history), dict(history))
    assert int(actual.step) == int(expected.step) == 9


def pull(own, other, noise=0.0):
    """A loss of the part `own`, which reads `other`, the data and a draw; it counts its calls."""

    def loss_fn(variables, batch, rng):
        params = variables["params"]
        target = batch["inputs"] + params[other]["w"] + noise * jax.random.normal(rng, ())
        losses = jnp.sum((params[own]["w"] - target) ** 2, axis=-1)
        return losses, ({"loss": losses}, {**variables, "calls": variables["calls"] + 1})

    return loss_fn


START = {
    "params": {"g": {"w": jnp.array([1.0, -1.0])}, "d": {"w": jnp.array([0.5, 2.0])}},
    "calls": jnp.zeros((), jnp.int32),
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(N, 2)), jnp.float32)
    return {"inputs": inputs, "weight": jnp.arange(N) % 3 * 0.5, "index": jnp.arange(N)}


def start_of(players):
    return training.init_players(START, players)


def run(players, data, num_epochs=3, **options):
    one = lambda state: training.run_epochs(
        training.alternate(players),
        state,
        data,
        jnp.arange(N),
        jax.random.key(0),
        **{"num_epochs": num_epochs, "batch_size": 10, **options},
    )
    return jax.jit(one)(start_of(players))


def by_hand(data, moves, txs, num_steps, weights=None):
    """`moves`: [(own, other, tx name, acts in step)], in turn on batches of all data."""
    params = {name: START["params"][name] for name in ("g", "d")}
    states = {name: tx.init(params[own]) for name, (own, tx) in txs.items()}
    seen = []
    weight = data["weight"] / data["weight"].sum()
    for number in range(num_steps):
        for own, other, name, acts in moves:
            if not acts(number):
                continue

            def loss(part, own=own, other=other):
                target = data["inputs"] + params[other]["w"]
                return jnp.sum(weight * jnp.sum((part["w"] - target) ** 2, axis=-1))

            value, slope = jax.value_and_grad(loss)(params[own])
            seen.append((number, name, own, float(value)))
            updates, states[name] = txs[name][1].update(slope, states[name], params[own])
            params[own] = optax.apply_updates(params[own], updates)
    return params, seen


def test_two_players_are_a_loop_by_hand_and_histories_are_means_over_their_own_steps(data):
    """Every batch holds all; the second acts in every other step, and sees the first one's move."""
    players = {
        "d": Player(pull("d", "g"), optax.sgd(0.1)),
        "generator": Player(pull("g", "d"), ADAM, every=2, part="g"),
    }
    state, history = run(players, data, num_epochs=5, batch_size=N)
    moves = [
        ("d", "g", "d", lambda n: True),
        ("g", "d", "generator", lambda n: n % 2 == 0),
    ]
    txs = {"d": ("d", optax.sgd(0.1)), "generator": ("g", ADAM)}
    params, seen = by_hand(data, moves, txs, 5)
    problems.assert_trees_close(state.variables["params"], params)
    assert int(state.step) == 5 and int(state.variables["calls"]) == 5 + 3
    assert sorted(history) == ["d.loss", "d.weight", "generator.loss", "generator.weight"]
    for name in ("d", "generator"):
        losses = dict.fromkeys(range(5), np.nan)  # of no step there is no mean
        losses |= {number: value for number, by, _, value in seen if by == name}
        np.testing.assert_allclose(history[f"{name}.loss"], list(losses.values()), rtol=1e-5)
    # Three steps in an epoch, of which the second player takes two, then one.
    frozen = {name: p._replace(tx=optax.sgd(0.0)) for name, p in players.items()}
    _, history = run(frozen, data, num_epochs=1)
    _, seen = by_hand(data, moves, {k: (v[0], optax.sgd(0.0)) for k, v in txs.items()}, 1)
    np.testing.assert_allclose(history["d.loss"], [seen[0][3]], rtol=1e-5)


def test_means_of_a_player_are_over_the_steps_in_which_it_acts(data):
    players = {
        "d": Player(pull("d", "g"), optax.sgd(0.0)),
        "g": Player(pull("g", "d"), optax.sgd(0.0), every=2),
    }
    order = lambda key, epoch: jnp.arange(N).reshape(3, 8)
    _, history = run(players, data, num_epochs=1, batch_size=8, order=order)
    error = START["params"]["g"]["w"] - data["inputs"] - START["params"]["d"]["w"]
    losses, weight = np.asarray((error**2).sum(1)), np.asarray(data["weight"])
    own = np.r_[0:8, 16:24]  # the first and the third batch
    expected = (losses * weight)[own].sum() / weight[own].sum()
    np.testing.assert_allclose(history["g.loss"], [expected], rtol=1e-5)


def test_a_saddle_point_is_found():
    """`(x - 1) y + x^2 / 2 - y^2 / 2`: x descends, y climbs to (1/2, -1/2)."""

    def loss_fn(sign, variables, batch, rng):
        x, y = variables["params"]["x"], variables["params"]["y"]
        losses = sign * ((x - 1) * y + x**2 / 2 - y**2 / 2) * jnp.ones_like(batch["weight"])
        return losses, ({"loss": losses}, variables)

    players = {
        name: Player(functools.partial(loss_fn, sign), optax.sgd(0.2))
        for name, sign in (("x", 1.0), ("y", -1.0))
    }
    state = training.init_players({"params": {"x": jnp.array(3.0), "y": jnp.array(3.0)}}, players)
    step = training.alternate(players)
    body = lambda state, key: (step(state, {"weight": jnp.ones(2)}, key)[0], None)
    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, jax.random.split(jax.random.key(0), 100)))(
        state
    )
    assert float(state.variables["params"]["x"]) == pytest.approx(0.5, abs=1e-4)
    assert float(state.variables["params"]["y"]) == pytest.approx(-0.5, abs=1e-4)


def test_a_player_that_waits_leaves_its_part_and_its_optimizer_bit_equal(data):
    players = {
        "d": Player(pull("d", "g"), ADAM),
        "g": Player(pull("g", "d"), ADAM, every=lambda step: step >= 3),
    }
    state, _ = run(players, data, num_epochs=1)  # three steps
    problems.assert_trees_equal(state.variables["params"]["g"], START["params"]["g"])
    problems.assert_trees_equal(state.opt_state["g"], ADAM.init(START["params"]["g"]))
    assert int(state.variables["calls"]) == 3
    later, _ = run(players, data, num_epochs=2)
    assert int(later.variables["calls"]) == 9 and int(later.opt_state["g"][0].count) == 3
    moved = later.variables["params"]["g"]["w"] - START["params"]["g"]["w"]
    assert (jnp.abs(moved) > 0.01).all()


def test_a_player_may_move_the_part_of_another_by_its_transformation_and_state(data):
    """A second loss of the same part in every second step, by one Adam."""
    players = {
        "d": Player(pull("d", "g"), ADAM),
        "lazy": Player(pull("d", "d"), "d", every=2),
    }
    state, _ = run(players, data, num_epochs=4, batch_size=N)
    assert list(state.opt_state) == ["d"]
    params = START["params"]["d"]["w"]
    opt_state = ADAM.init(params)
    weight = data["weight"] / data["weight"].sum()
    fixed = START["params"]["g"]["w"]
    for number in range(4):
        for other, acts in ((fixed, True), (None, number % 2 == 0)):
            if not acts:
                continue

            def loss(w, other=other):
                target = data["inputs"] + (w if other is None else other)
                return jnp.sum(weight * jnp.sum((w - target) ** 2, axis=-1))

            updates, opt_state = ADAM.update(jax.grad(loss)(params), opt_state)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.variables["params"]["d"]["w"], params, rtol=1e-5)
    assert int(state.opt_state["d"][0].count) == 4 + 2


def handed_over():
    """Moves by what it is handed as `against`."""
    update = lambda u, s, p=None, *, against, **_: (against, s)
    return optax.GradientTransformationExtraArgs(lambda p: (), update)


@pytest.mark.parametrize("max_norm", [None, 0.25, 1e3])
def test_the_gradient_of_a_second_loss_is_handed_over_clipped(data, max_norm):
    limit = {} if max_norm is None else {"max_norm": max_norm}
    players = {"d": Player(pull("d", "d"), handed_over(), against=pull("d", "g"), **limit)}
    state, history = run(players, data, num_epochs=1, batch_size=N)
    weight = np.asarray(data["weight"], np.float64)[:, None]
    before = START["params"]
    error = np.asarray(before["d"]["w"] - data["inputs"] - before["g"]["w"], np.float64)
    slope = 2 * (weight * error).sum(0) / weight.sum()
    slope *= min(1.0, (max_norm or np.inf) / np.linalg.norm(slope))
    moved = state.variables["params"]["d"]["w"] - before["d"]["w"]
    np.testing.assert_allclose(moved, slope, rtol=1e-5)
    own = np.asarray(data["inputs"], np.float64) ** 2  # metrics are the first loss's
    np.testing.assert_allclose(history["loss"], [(weight * own).sum() / weight.sum()], rtol=1e-5)
    assert int(state.variables["calls"]) == 1


def test_every_player_draws_for_itself_the_first_as_a_plain_step_does(data):
    seen = {}

    def noting(name, variables, batch, rng):
        seen[name] = jax.random.key_data(rng), jax.random.key_data(batch["key"])
        losses = 0 * variables["params"]["d"]["w"].sum() * batch["weight"]
        return losses, ({}, variables)

    losses = {name: functools.partial(noting, name) for name in ("plain", "d", "again")}
    batch = data_lib.take(data, jnp.arange(4))
    plain = training.make_step(losses["plain"], ADAM)
    plain(training.init_state(START, ADAM), batch, jax.random.key(1))
    players = {name: Player(losses[name], ADAM, part="d") for name in ("d", "again")}
    with jax.disable_jit():
        training.alternate(players)(start_of(players), batch, jax.random.key(1))
    values = {name: [np.asarray(x).tolist() for x in keys] for name, keys in seen.items()}
    assert values["d"] == values["plain"]
    assert all(values["d"][i] != values["again"][i] for i in (0, 1))


def two(noise=0.3):
    averaging = training.averaged(ADAM, decay=0.5)
    return {
        "d": Player(pull("d", "g", noise), ADAM),
        "generator": Player(pull("g", "d", noise), averaging, every=2, part="g"),
    }


def task_of_two():
    """Its variables are `START`."""
    start = lambda rng, batch: jax.tree.map(jnp.copy, START)
    return problems.softmax_regression()._replace(init=start)


def test_streams_chunks_and_ensembles_take_players_as_they_are(data):
    players = two()
    whole, _ = run(players, data, num_epochs=2)
    args = (training.alternate(players), start_of(players))
    fetch = lambda rows: {k: np.asarray(v)[rows] for k, v in data.items()}
    rest = (jnp.arange(N), jax.random.key(0))
    stream = training.stream_epochs(*args, fetch, *rest, num_epochs=2, batch_size=10)
    *_, (streamed, _) = stream
    problems.assert_trees_close(streamed.variables["params"], whole.variables["params"])
    problems.assert_trees_close(streamed.opt_state, whole.opt_state)

    recipe = lambda task: training.alternation(task, players)
    subsets, rngs = jnp.stack([jnp.arange(N)] * 2), jax.random.split(jax.random.key(5))
    keep = lambda variables, data: variables["params"]
    options = {"num_epochs": 2, "batch_size": 10}
    many = ensembles.train_ensemble(
        task_of_two(), recipe, data, subsets, rngs, keep, axis="vmap", **options
    )
    model, _ = jax.jit(
        lambda rng: training.fit(recipe(task_of_two()), data, jnp.arange(N), rng, **options)
    )(rngs[1])
    problems.assert_trees_close(jax.tree.map(lambda x: x[1], many), model["params"])


def test_what_is_deployed_is_averaged_where_the_player_averages(data):
    players = two()
    state, _ = run(players, data, num_epochs=1)
    model = training.deploy_players(state, players)
    average = state.opt_state["generator"].average["w"]
    np.testing.assert_array_equal(model["params"]["g"]["w"], average)
    assert (average != state.variables["params"]["g"]["w"]).all()
    problems.assert_trees_equal(model["params"]["d"], state.variables["params"]["d"])
    assert int(model["calls"]) == int(state.variables["calls"]) == 5


def test_players_that_average_the_same_parameters_are_refused():
    average = training.averaged(ADAM, decay=0.5)
    hidden = optax.chain(average, optax.scale(2.0))
    for tx, part in ((average, training.WHOLE), (average, "d"), (hidden, "d")):
        players = {"d": Player(None, average), "other": Player(None, tx, part=part)}
        with pytest.raises(ValueError, match="'d' and 'other' must not average the same"):
            training.init_players(START, players)
    plain = {"d": Player(None, average), "other": Player(None, ADAM, part=training.WHOLE)}
    apart = {"d": Player(None, average), "other": Player(None, average, part="g")}
    for players in (plain, apart):
        assert sorted(training.init_players(START, players).opt_state) == ["d", "other"]


def test_a_player_that_rests_has_no_mean():
    """It acts in step 0 of two epochs of one step each: the second has nothing of it."""

    def loss_fn(variables, batch, rng):
        return variables["params"]["x"] * batch["weight"], ({"m": 5 * batch["weight"]}, variables)

    players = {
        "x": Player(loss_fn, optax.sgd(0.5), every=4),
        "y": Player(loss_fn, optax.sgd(0.5), part="x"),
    }
    _, history = training.run_epochs(
        training.alternate(players),
        training.init_players({"params": {"x": jnp.ones(())}}, players),
        {"inputs": jnp.ones((4, 1)), "weight": jnp.ones(4)},
        jnp.arange(4),
        jax.random.key(0),
        num_epochs=2,
        batch_size=4,
    )
    np.testing.assert_array_equal(history["x.m"], [5.0, np.nan])
    np.testing.assert_array_equal(history["y.m"], [5.0, 5.0])
    np.testing.assert_array_equal(history["x.weight"], [4.0, 0.0])


def test_players_on_several_devices_are_one(data):
    """Inside of a mapped axis: gradients, metrics and sums of weights are those of all."""
    players = two(noise=0.0)
    batch = data_lib.take(data, jnp.arange(8))
    mesh = parallel.mesh(jax.devices()[:4])
    own, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    mapped = jax.shard_map(
        training.alternate(players, parallel.AXIS),
        mesh=mesh,
        in_specs=(whole, own, whole),
        out_specs=whole,
        check_vma=False,
    )
    state = start_of(players)
    results = [
        jax.jit(f)(state, batch, jax.random.key(0)) for f in (mapped, training.alternate(players))
    ]
    problems.assert_trees_close(*(r[0].variables["params"] for r in results))
    problems.assert_trees_close(*(r[1] for r in results))


@pytest.mark.parametrize(
    ("players", "message"),
    [
        ({}, "players must be at least one, got none"),
        ({"x": Player(None, ADAM)}, r"part of players\['x'\] must be one of \['d', 'g'\], got 'x'"),
        ({"d": Player(None, "e")}, r"tx of players\['d'\] must be one of \[\], got 'e'"),
        ({"d": Player(None, ADAM), "e": Player(None, "d", part="g")}, "part of players.'e'. is"),
        ([Player(None, ADAM)], "players must map names to players, got a list"),
        ({"d": ADAM}, r"players\['d'\] must be a Player, got a Gradient"),
        ({"d": Player(None, ADAM, every=1.5)}, r"every of players\['d'\] must be a whole number"),
        ({"d": Player(None, ADAM, every="2")}, r"every of players\['d'\] must be a whole number"),
        ({"d": Player(None, ADAM, every=0)}, r"every of players\['d'\] must be >= 1, got 0"),
        ({"d": Player(None, ADAM, max_norm=0.0)}, r"max_norm of players\['d'\] must be > 0"),
    ],
)
def test_bad_players_are_named(players, message):
    with pytest.raises(ValueError, match=message):
        training.init_players(START, players)
    if "part of players['x']" not in message.replace("\\", ""):
        with pytest.raises(ValueError, match=message):
            training.alternate(players)
