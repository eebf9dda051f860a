"""From config strings to problems on a graph, and every method through the main job."""

import contextlib
import json

import jax
import numpy as np
import pytest

from configs import graph_sweep
from configs import graphs as config_lib
from experiments import sweep
from experiments.common import build, graphs, measure
from experiments.common.evaluations import classification
from experiments.common.evaluations import graph as evaluation
from tests import networks
from tests.experiments import cli
from unlearnjax import training, trees
from unlearnjax.data import graphs as graph_lib
from unlearnjax.data import planetoid


@pytest.fixture
def toy(monkeypatch):
    """Twelve nodes where digits are asked for."""
    splits = np.arange(7), np.array([7, 8]), np.array([9, 10, 11])
    made = planetoid.dataset(networks.small(), networks.data()["targets"], splits, ("a", "b", "c"))
    monkeypatch.setattr(graphs, "_nodes", lambda *args: made)
    return made


def bench(arg):
    config = config_lib.get_config(arg)
    return measure.bench(config, build.problem(config, None))


@pytest.mark.parametrize("arg", ["forget=nodes:2", "links,forget=edges:2"])
def test_every_method_can_be_traced_on_the_request(toy, arg):
    own = bench(f"digits,seeds=1,method=all,{arg}")
    config = own.config
    given, left = build.given(config, own.problem.dataset), len(own.problem.retain)
    forgetters = {
        name: measure.forgetter(
            own,
            lambda values, name=name: build.unlearner(name, config, left, {**given, **values}),
            contextlib.nullcontext,
        )
        for name in config.methods
        if "eraser" not in name or "links" not in arg
    }
    measure.validate(forgetters)
    if "links" in arg:
        assert own.task.draw is not None and config.model.options.out == 32
        assert "graph_eraser" not in config_lib.get_config("digits,links").methods


def test_oracles_start_on_the_edited_graph_and_the_audit_sees_the_deleted_edges(toy):
    own = bench("digits,forget=edges:3,seeds=1,method=edit_only")
    start, oracle = own.start["graph"], measure.oracle_start(own)["graph"]
    before, after = (set(map(tuple, graph_lib.pairs(g).tolist())) for g in (start, oracle))
    assert len(before - after) == 3 and own.request.edited["graph"] is oracle
    np.testing.assert_array_equal(own.problem.oracle, np.arange(7))
    context = evaluation.prepare(None, own)
    assert set(map(tuple, context.pairs["deleted"].tolist())) == before - after
    assert set(map(tuple, context.pairs["retained"].tolist())) == after
    never = set(map(tuple, context.pairs["non_edges"].tolist()))
    assert not never & (before | {pair[::-1] for pair in before})
    state = training.init_variables(own.task, own.train, jax.random.key(0), own.start)
    # Of two nodes: how probably their classes are the same.
    pairs = context.pairs["deleted"]
    found = evaluation._scores(own.task, state, {"pairs": pairs}, False)
    everyone = {"inputs": np.arange(networks.N)}
    logits = own.task.apply(state, everyone, None, False)[0]["logits"]
    probs = np.asarray(jax.nn.softmax(logits), np.float64)
    np.testing.assert_allclose(
        np.exp(found), (probs[pairs[:, 0]] * probs[pairs[:, 1]]).sum(1), rtol=1e-5
    )


def test_models_are_held_against_oracles_without_the_attack_that_flips():
    rng = np.random.default_rng(0)
    kinds = {"deleted": 9, "retained": 40, "non_edges": 40}
    means = {"original": 2.0, "oracle": -1.0, "some": 0.5, "diverged": np.nan}
    rows, arrays = [], []
    for method, seed in (
        ("original", 0), ("original", 1), ("oracle", 0), ("oracle", 5), ("some", 1), ("diverged", 0)
    ):  # fmt: skip
        names = ("forget", "retain", "test")
        numbers = {f"{name}_accuracy": rng.random() for name in (*names, "unseen")}
        # The attack takes the oracles' nodes for the one kind or the other.
        rows.append({"method": method, "seed": seed, **numbers, "mia_efficacy": float(seed > 0)})
        arrays.append(
            {"predictions": rng.dirichlet(np.ones(3), 4), "parameter.a": rng.normal(size=3)}
            | {f"{name}_confidence": rng.random(6) for name in names}
            | {f"pairs.{k}": rng.normal(1, 1, number) for k, number in kinds.items()}
        )  # fmt: skip
        arrays[-1]["pairs.non_edges"] -= 2
        arrays[-1]["pairs.deleted"] += means[method]
    own = classification.Context(None, lambda: np.full((4, 3), 1 / 3), None)
    context = evaluation.Context(None, own, kinds)
    found = evaluation.against_oracles(context, rows, arrays)
    columns = evaluation.AVERAGED
    mean = {c: (rows[2][c] + rows[3][c]) / 2 for c in columns}
    for row in found:
        gap = np.mean([abs(row[c] - mean[c]) for c in columns])
        assert row["average_gap"] == pytest.approx(gap)
        assert evaluation.EVALUATION.gap.distance(row, mean) == pytest.approx(gap)
    # To the original of the same seed; of an oracle beyond these, to both.
    scores = [{k: own[f"pairs.{k}"] for k in kinds} for own in arrays]
    ratio = lambda i, j: evaluation.links.membership_ratio(
        scores[j]["deleted"], scores[i]["deleted"], scores[j]["retained"], scores[j]["non_edges"],
        seed=rows[i]["seed"],
    )  # fmt: skip
    ratios = [row["membership_ratio"] for row in found]
    expected = [1, 1, ratio(2, 0), (ratio(3, 0) + ratio(3, 1)) / 2, ratio(4, 1), np.nan]
    np.testing.assert_allclose(ratios, expected)
    assert ratios[2] > ratios[4] > 1
    # Distances are to all oracles, of an oracle to the others.
    apart = lambda i, j: np.linalg.norm(arrays[i]["parameter.a"] - arrays[j]["parameter.a"])
    assert found[2]["verification_error"] == pytest.approx(apart(2, 3))
    assert found[4]["verification_error"] == pytest.approx((apart(4, 2) + apart(4, 3)) / 2)
    for name in ("forget", "retain", "test"):
        own = [x[f"{name}_confidence"] for x in arrays]
        distance = (np.abs(own[4] - own[2]).mean() + np.abs(own[4] - own[3]).mean()) / 2
        assert found[4][f"{name}_distance"] == pytest.approx(distance)


def test_edges_to_test_with_are_no_pairs_that_never_were_one(toy):
    own = bench("digits,links,forget=edges:2,seeds=1,method=edit_only")
    edges = own.problem.held_out["inputs"][own.problem.held_out["targets"] == 1]
    never = np.array([[10, 0], [11, 0]])
    pairs = np.concatenate([edges[:, ::-1], never])
    assert evaluation._held_out(own, pairs).tolist() == [True] * len(edges) + [False] * 2


def test_config_strings():
    config = config_lib.get_config("cora,forget=edges:0.05,model=gat")
    assert (config.dataset, config.model.name, config.forget) == ("cora", "gat", "edges:0.05")
    assert config.train.num_epochs == 200 and config.train.recipe.endswith("first_layer_decay")
    for arg, why in (("digits,train=50", "no meaning for graphs"), ("digits,weights=x", "weights")):
        with pytest.raises(ValueError, match=why):
            config_lib.get_config(arg)
    for arg, why in (
        ("cora", "give --data_dir=FOLDER"),
        ("npz", "give --config.source=PATH"),
        ("mnist", "dataset must be one of"),
    ):
        with pytest.raises(ValueError, match=why):
            build.problem(config_lib.get_config(arg), None)


def test_links_have_values_of_their_own():
    links, nodes = (config_lib.get_config(f"cora,{own}method=all") for own in ("links,", ""))
    assert set(nodes.methods) - set(links.methods) == {"graph_eraser"}
    assert links.unlearn.d2dgn.batch_size == 2048 and nodes.unlearn.d2dgn.batch_size == 512
    assert links.unlearn.gnn_delete == nodes.unlearn.gnn_delete


def test_a_sweep_tries_values_that_its_methods_have():
    config = graph_sweep.get_config("cora,links,method=ssd+d2dgn,forget=edges:0.05")
    assert config.scenarios == ("edges:0.05",) and config.methods == ("ssd", "d2dgn")
    assert graph_sweep.get_config("").scenarios == ("nodes:0.1", "edges:0.05")
    sweep.validate(graph_sweep.get_config(""))


def test_the_decay_is_of_the_first_layer_alone():
    import optax

    tx = graphs.first_layer_decay(optax.sgd(1.0))
    params = {"layer_0": {"kernel": np.ones(2, np.float32)}, "layer_1": {"kernel": np.ones(2)}}
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    assert trees.names(updates) == ["layer_0.kernel", "layer_1.kernel"]
    np.testing.assert_allclose(updates["layer_0"]["kernel"], -graphs.DECAY)
    np.testing.assert_array_equal(updates["layer_1"]["kernel"], 0)


@pytest.mark.slow
def test_the_whole_run_on_the_digits(tfds_dir, tmp_path):
    config = "configs/graphs.py:digits,seeds=2,method=retrain+edit_only+gnn_delete"
    flags = (
        "--config.train.num_epochs=20",
        "--config.unlearn.gnn_delete.num_steps=20",
        "--config.evaluate.relearn.max_steps=5",
    )
    process = cli.run(cli.command(tmp_path / "run", *flags, config=config), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = {row["method"]: row for row in results["rows"]}
    assert list(rows) == ["original", "oracle", "retrain", "edit_only", "gnn_delete"]
    assert rows["original"]["test_accuracy"] > 0.85
    # The retrained model is as near to the oracle as another oracle.
    ratio = rows["retrain"]["verification_error"] / rows["oracle"]["verification_error"]
    assert 0.7 < ratio < 1.5
    assert rows["retrain"]["average_gap"] == pytest.approx(rows["oracle"]["average_gap"], abs=0.05)
    assert rows["retrain"]["forget_accuracy"] < 0.2 < rows["original"]["forget_accuracy"]
    assert rows["gnn_delete"]["verification_error"] is None  # other parameters
    assert rows["edit_only"]["verification_error"] > 0


@pytest.mark.realdata
def test_a_gcn_reaches_the_literatures_accuracy_on_cora(tmp_path):
    import os

    folder = os.environ.get("UNLEARNJAX_PLANETOID")
    if not folder:
        pytest.skip("needs UNLEARNJAX_PLANETOID, the folder of Planetoid's files")
    config = config_lib.get_config("cora,method=edit_only")
    problem = build.problem(config, folder)
    own = measure.bench(config, problem)
    tx = build.recipe(config, 140)
    run = jax.jit(
        lambda key: training.fit(
            training.recipe(own.task, tx), own.train, np.arange(140), key,
            num_epochs=200, batch_size=140, start=own.start,
        )[0]
    )  # fmt: skip
    found = []
    for seed in range(3):
        variables = run(jax.random.key(seed))
        scores = training.evaluate(own.task, variables, own.held_out, batch_size=1000)
        found.append(float(scores["accuracy"].mean()))
    assert 0.79 <= np.mean(found) <= 0.825, found
