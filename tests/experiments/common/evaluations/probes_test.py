"""What linear probes of the report look at, and where there is nothing to be probed."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.common.evaluations import classification, probes
from unlearnjax import audit, tasks
from unlearnjax.audit.probing import COLUMNS

RNG = np.random.default_rng(0)
TARGETS = np.arange(60) % 3
HELD_OUT = {
    "inputs": RNG.normal(TARGETS[:, None] == 2, 1, (60, 4)).astype(np.float32),
    "targets": TARGETS.astype(np.int32),
    "index": np.arange(60),
}
UNSEEN, TEST = np.flatnonzero(TARGETS == 2), np.flatnonzero(TARGETS != 2)


def apply(variables, batch, rng, train):
    hidden = tasks.tap("wide", batch["inputs"][:, :, None] * variables["params"]["w"])
    found = {"logits": hidden.sum(-1), "features": hidden.sum(2)}
    return {k: v for k, v in found.items() if k != variables.get("without")}, variables


TASK = tasks.classification(tasks.Model(lambda rng, batch: {"params": {"w": jnp.ones(2)}}, apply))
MODEL = {"params": {"w": jnp.array([1.0, -3.0])}}


def bench(unseen=UNSEEN, test=TEST, held_out=HELD_OUT, layer=None):
    problem = types.SimpleNamespace(held_out=held_out, unseen=unseen, test=test)
    evaluate = {"batch_size": 7, "probe": {"layer": layer}}
    config = ConfigDict({"seed": 3, "evaluate": evaluate}, convert_dict=True)
    return types.SimpleNamespace(
        problem=problem, config=config, task=TASK, train=held_out, held_out=held_out
    )


def observed(own, task=TASK, model=MODEL):
    return probes.observe(probes.prepare(own), own, task, model)


@pytest.mark.parametrize("layer", [None, "wide"])
def test_the_forgotten_class_is_probed_on_unseen_examples(layer):
    inputs = HELD_OUT["inputs"]
    features = {None: -2 * inputs, "wide": inputs[:, :, None] * np.array([1.0, -3.0])}[layer]
    expected = audit.linear_probe(features[UNSEEN], features[TEST])
    found = observed(bench(layer=layer))
    np.testing.assert_allclose(found, [expected["accuracy"], expected["auc"]])
    assert 0.6 < found[0] < found[1] < 1
    assert probes.numbers(found) == {"probe": found[0], "probe_auc": found[1]}
    assert list(probes.numbers(found)) == list(COLUMNS)


def test_many_examples_are_a_sample_of_each_kind(monkeypatch):
    monkeypatch.setattr(probes, "MAX_EXAMPLES", 11)
    found = [probes.prepare(bench()) for _ in range(2)]
    assert found[0].num_forgotten == 11
    index = np.asarray(found[0].data["index"])
    assert set(index[:11]) < set(UNSEEN) and set(index[11:]) < set(TEST) and len(index) == 22
    np.testing.assert_array_equal(index, found[1].data["index"])


@pytest.mark.parametrize(
    ("unseen", "test"),
    [(TEST[:20], TEST), (UNSEEN[:1], TEST), (UNSEEN, TEST[:1]), (UNSEEN[:0], TEST)],
)
def test_there_is_a_dash_unless_whole_classes_are_forgotten(unseen, test):
    own = bench(unseen, test)
    assert probes.prepare(own) is None
    assert np.isnan(observed(own)).all() and observed(own).shape == (2,)


def test_there_is_a_dash_for_a_model_that_diverged_or_has_no_such_layer():
    bad = {"params": {"w": jnp.array([jnp.nan, 1.0])}}
    assert np.isnan(observed(bench(), model=bad)).all()
    alone = TASK._replace(apply=lambda v, b, r, t: ({"logits": b["inputs"]}, v))
    assert np.isnan(observed(bench(), alone)).all()
    assert np.isnan(observed(bench(layer="wide"), alone)).all()


def test_a_layer_that_the_model_lacks_is_refused_before_training():
    with pytest.raises(
        ValueError, match="where must name layers .* got 'wde'; did you mean 'wide'"
    ):
        probes.prepare(bench(layer="wde"))


def test_runs_from_before_there_were_probes_have_no_column(monkeypatch):
    own = bench()
    nothing = lambda *args, **options: np.zeros(0)
    monkeypatch.setattr(classification.sets, "observe", lambda *args: {})
    monkeypatch.setattr(classification.sets, "logits", nothing)
    monkeypatch.setattr(audit, "summarise", lambda *args, **options: {"mia": 0.5})
    context = classification.prepare(None, own)
    arrays = classification.observe(context, TASK, MODEL)
    np.testing.assert_array_equal(arrays["probe"], observed(own))
    row = classification.numbers(context, arrays, 0)
    assert row == {"mia": 0.5, **probes.numbers(arrays["probe"])}
    del own.config.evaluate.probe
    context = classification.prepare(None, own)
    arrays = classification.observe(context, TASK, MODEL)
    assert set(arrays) == {"predictions"} and context.probe is None
    assert classification.numbers(context, arrays, 0) == {"mia": 0.5}
