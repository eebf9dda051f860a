"""Frozen models beside the student: where they come from, and which outputs are kept."""

import jax
import jax.numpy as jnp
import pytest

from tests import problems
from tests.tasks.draws_test import noisy
from unlearnjax import tasks, training, unlearning
from unlearnjax.types import Request, Task
from unlearnjax.unlearning import teachers

# Two outputs of four bytes each.
SCALAR = Task(
    init=lambda rng, batch: {"params": jnp.ones(())},
    apply=lambda variables, batch, rng, train: (
        {"value": variables["params"] * batch["inputs"], "twice": 2 * batch["inputs"]},
        variables,
    ),
    loss=lambda outputs, batch: outputs["value"],
    metrics=lambda outputs, batch: {},
)


def test_an_incompetent_model_takes_its_shapes_from_whichever_part_there_is(digits):
    task, rng = problems.mlp(), jax.random.key(3)
    part = {k: jnp.asarray(v[:20]) for k, v in digits.items()}
    expected = training.init_variables(task, part, rng)
    for request in (Request(part), Request(None, part)):
        model = unlearning.incompetent_model(rng, task, expected, request)
        problems.assert_trees_equal(model, expected)


def test_the_original_is_the_requests_or_else_the_given_model():
    given, other = {"params": jnp.ones(())}, {"params": jnp.zeros(())}
    assert teachers.original(given, Request(None)) is given
    assert teachers.original(given, Request(None, original=other)) is other


def test_what_is_too_much_to_keep_is_computed(monkeypatch):
    data = {"inputs": jnp.array([1.0, 2.0])}
    cached = lambda: teachers.cached(SCALAR, {"fixed": {"params": jnp.asarray(3.0)}}, data, None)
    assert set(cached()) == {"fixed.value", "fixed.twice"}
    assert cached()["fixed.value"].tolist() == [3, 6]
    monkeypatch.setattr(teachers, "MAX_CACHED", 16)  # 2 outputs x 2 examples x 4 bytes
    assert set(cached()) == {"fixed.value", "fixed.twice"}
    monkeypatch.setattr(teachers, "MAX_CACHED", 15)
    assert cached() == {}


def test_teachers_of_a_task_that_draws_are_not_cached(digits):
    data = {"inputs": jnp.ones((4, 6)), "index": jnp.arange(4)}
    frozen = {"original": {"params": {"w": jnp.ones(6)}}}
    assert teachers.cached(noisy(), frozen, data, None) == {}
    with pytest.raises(ValueError, match=r"cache_teachers must be \(\) for a task that draws"):
        teachers.cached(noisy(), frozen, data, ("prediction",))
    # Augmentation, too, is drawn for the step.
    task = problems.softmax_regression()
    few = {k: jnp.asarray(v[:4]) for k, v in digits.items()}
    frozen = {"original": problems.init(task, few)}
    assert set(teachers.cached(task, frozen, few, None)) == {"original.logits", "original.features"}
    cut = tasks.augmented(task, lambda rng, example: example)
    assert teachers.cached(cut, frozen, few, None) == {}
