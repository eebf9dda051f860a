"""A model's answers, row by row and whatever the batches are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.unlearning.language import toy
from unlearnjax.audit import language

REQUEST, GIVEN = toy.problem(num_forget=5)
DATA = REQUEST.forget


def test_what_is_observed_is_what_outputs_say():
    observe = lambda size, share: jax.jit(
        lambda v, d: language.observed(toy.TASK, v, d, batch_size=size, share=share)
    )(GIVEN, DATA)
    found, apart = observe(32, 0.5), observe(2, 0.5)
    outputs, _ = toy.TASK.apply(GIVEN, DATA, None, False)
    answer, correct = DATA["answer"], outputs["logits"].argmax(-1) == DATA["targets"]
    values = language.standardised(outputs["logits"], DATA["targets"])
    expected = {
        "loss": toy.loss(outputs, DATA),
        "probability": jnp.exp(-toy.loss(outputs, DATA)),
        "min_k": language.min_k(outputs["log_probs"], answer, 0.5),
        "min_k_plus_plus": language.min_k(values, answer, 0.5),
        "exact_memorisation": language.exact_memorisation(correct, answer),
        "extraction_strength": language.extraction_strength(correct, answer),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
        np.testing.assert_allclose(apart[name], value, rtol=1e-5)


def test_a_task_without_logits_is_observed_as_far_as_it_goes():
    def apply(*args):
        outputs, variables = toy.apply(*args)
        return {"log_probs": outputs["log_probs"]}, variables

    found = language.observed(toy.TASK._replace(apply=apply), GIVEN, DATA)
    assert sorted(found) == ["loss", "min_k", "probability"]


def test_losses_of_several_answers_to_each_question():
    rng = np.random.default_rng(1)
    sets = [toy.answers(rng, 5) for _ in range(3)]
    columns = ("inputs", "targets", "answer")
    several = {f"perturbed.{k}": np.stack([s[k] for s in sets], axis=1) for k in columns}
    data = {**DATA, **several, "author": np.array(list("abcde"))}
    seen = []

    def apply(variables, batch, rng, train):
        seen.append(sorted(batch))
        return toy.apply(variables, batch, rng, train)

    task = toy.TASK._replace(apply=apply)
    found = language.losses(task, GIVEN, data, "perturbed", batch_size=4)
    alone = jax.jit(lambda d: toy.loss(toy.apply(GIVEN, d, None, False)[0], d))
    expected = np.stack([alone(s) for s in sets], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert set(map(tuple, seen)) == {("answer", "index", "inputs", "targets")}
    np.testing.assert_allclose(language.losses(task, GIVEN, data), alone(DATA), rtol=1e-5)
    refused = language.losses(task, GIVEN, data, "refusal")
    np.testing.assert_allclose(refused, alone(toy.viewed(DATA, "refusal")), rtol=1e-5)


def test_a_missing_view_is_named():
    with pytest.raises(ValueError, match="data must have the column 'perturbed.inputs', got"):
        language.losses(toy.TASK, GIVEN, DATA, "perturbed")
