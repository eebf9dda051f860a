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
    @jax.jit
    def values(variables, data):
        found = [
            language.observed(toy.TASK, variables, data, batch_size=n, share=0.5) for n in (9, 2)
        ]
        outputs, _ = toy.TASK.apply(variables, data, None, False)
        answer = data["answer"]
        surprise = language.standardised(outputs["logits"], data["targets"])
        expected = {
            "loss": toy.loss(outputs, data),
            "probability": jnp.exp(-toy.loss(outputs, data)),
            "min_k": language.min_k(outputs["log_probs"], answer, 0.5),
            "min_k_plus_plus": language.min_k(surprise, answer, 0.5),
        }
        return expected, found

    expected, found = values(GIVEN, DATA)
    for seen in found:
        assert seen.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(seen[name], value, rtol=1e-5)


def test_shares_and_batches_have_defaults():
    """Of answers so long that another share is another number of tokens."""
    data, sizes = {**DATA, "answer": jnp.ones_like(DATA["answer"])}, []

    def apply(variables, batch, rng, train):
        sizes.append(len(batch["inputs"]))
        return toy.apply(variables, batch, rng, train)

    task = toy.TASK._replace(apply=apply)
    run = lambda **options: language.observed(task, GIVEN, data, **options)["min_k"]
    found = jax.jit(lambda: [run(), run(share=0.2, batch_size=3), run(share=0.4)])()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert not np.allclose(found[0], found[2])
    assert sizes == [5, 3, 5]
    jax.eval_shape(lambda: language.losses(task, GIVEN, data, batch_size=2))
    assert sizes[-1] == 2


def test_a_task_without_logits_is_observed_as_far_as_it_goes():
    def apply(*args):
        outputs, variables = toy.apply(*args)
        return {"log_probs": outputs["log_probs"]}, variables

    task = toy.TASK._replace(apply=apply)
    found = jax.eval_shape(lambda v: language.observed(task, v, DATA), GIVEN)
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
    views = ("perturbed", None, "refusal")
    found = jax.jit(lambda v: [language.losses(task, v, data, x, batch_size=4) for x in views])(
        GIVEN
    )
    assert set(map(tuple, seen)) == {("answer", "index", "inputs", "targets", "weight")}
    alone = lambda rows: (
        -(toy.said(GIVEN, rows)["log_probs"] * rows["answer"]).sum(-1) / np.sum(rows["answer"], -1)
    )
    np.testing.assert_allclose(found[0], np.stack([alone(s) for s in sets], axis=1), rtol=1e-5)
    np.testing.assert_allclose(found[1], alone(DATA), rtol=1e-5)
    np.testing.assert_allclose(found[2], alone(toy.viewed(DATA, "refusal")), rtol=1e-5)


def test_what_was_said_stands_behind_its_prompt_with_its_end():
    prompts = {"condition": np.array([[5, 6, 0], [7, 4, 4], [8, 0, 0]])}
    prompts["condition_length"] = np.array([2, 3, 1])
    said = {"tokens": np.array([[9, 2, 2], [2, 2, 2], [9, 9, 9]]), "length": np.array([1, 0, 3])}
    found = language.continuations(prompts, said)
    expected = {  # 5 6 | 9 2; 7 4 4 | 2; 8 | 9 9 9, which did not end
        "inputs": [[5, 6, 9, 2, 0], [7, 4, 4, 2, 0], [8, 9, 9, 9, 0]],
        "targets": [[6, 9, 2, 0, 0], [4, 4, 2, 0, 0], [9, 9, 9, 0, 0]],
        "answer": [[0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 0, 0]],
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    assert found["answer"].dtype == np.float32
    full = language.continuations(
        {"condition": [[5, 6]], "condition_length": [2]}, {"tokens": [[9]], "length": [1]}
    )
    assert [own.tolist() for own in full.values()] == [[[5, 6]], [[6, 9]], [[0, 1]]]


def test_a_missing_view_is_named():
    with pytest.raises(ValueError, match="data must have the column 'perturbed.inputs', got"):
        language.losses(toy.TASK, GIVEN, DATA, "perturbed")
