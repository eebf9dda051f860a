"""Every method on a decoder, by the names of its layers."""

import jax
import numpy as np
import optax
import pytest

from tests import frameworks, problems
from tests.unlearning.language import toy
from unlearnjax import models, tasks, trees, unlearning
from unlearnjax.unlearning.language import answers, steering

REQUEST, _ = toy.problem()
CONFIG = models.DecoderConfig(vocab_size=toy.VOCABULARY, width=8, depth=2, num_heads=2, mlp_width=8)
MODEL = tasks.from_linen(models.Decoder(CONFIG))
WHERE = ["block_0.mlp.down", "block_1.mlp.down"]
OPTIONS = {
    **{name: {} for name in ("npo", "simnpo", "dpo", "idk", "wga", "satimp", "undial", "ce_u")},
    "grad_diff": {"retain": "kl"},
    "rmu": {"layer": "block_1", "where": WHERE},
    "task_vector": {"num_epochs": 1},
}


@pytest.fixture(scope="module")
def given():
    task = tasks.language_modelling(MODEL)
    shapes = jax.eval_shape(lambda key: task.init(key, REQUEST.forget), jax.random.key(0))
    return frameworks.random_like(shapes)


def updated(task, given, name, **options):
    method = unlearning.enforce(
        getattr(unlearning, name)(optax.sgd(0.1), batch_size=3, **OPTIONS[name], **options)
    )
    request = REQUEST._replace(original=None)
    return lambda v: method.update(jax.random.key(0), task, v, (), request)[0]


# Tracing each of them takes a second, and they share what the quick ones hold.
QUICK = ("dpo", "grad_diff")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_methods_run_on_a_decoder(given, name):
    task = tasks.language_modelling(MODEL)
    found = jax.eval_shape(updated(task, given, name), given)
    assert trees.names(found) == trees.names(given)


def test_rmu_moves_the_named_matrices_alone(given, monkeypatch):
    monkeypatch.setattr(steering, "descend", toy.whole_step)
    task = tasks.language_modelling(MODEL)
    found = jax.jit(updated(task, given, "rmu", num_steps=1))(given)
    pairs = zip(
        trees.names(given["params"]),
        *(jax.tree.leaves(x["params"]) for x in (given, found)),
        strict=True,
    )
    moved = [name for name, a, b in pairs if not np.array_equal(a, b)]
    assert moved == [f"{name}.kernel" for name in WHERE]


@pytest.mark.slow
def test_logits_in_chunks_change_nothing(given, monkeypatch):
    monkeypatch.setattr(answers, "descend", toy.whole_step)
    plain, chunked = (tasks.language_modelling(MODEL, chunk=chunk) for chunk in (None, 4))
    methods = [updated(task, given, "npo") for task in (chunked, plain)]
    found, expected = jax.jit(lambda v: [method(v) for method in methods])(given)
    problems.assert_trees_close(found, expected, 1e-5)
    with pytest.raises(ValueError, match="the model must return 'logits'"):
        jax.eval_shape(updated(chunked, given, "undial"), given)
