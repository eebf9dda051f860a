import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import denoising
from tests.unlearning.diffusion import toy
from unlearnjax import training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.diffusion import conditions


def request(condition):
    return Request({"condition": condition})


def test_the_next_condition_or_the_anchor_takes_the_place():
    data = {"condition": jnp.array([0, 1, 2, 0])}
    assert conditions.replaced(data, None, toy.PROCESS).tolist() == [1, 2, 0, 1]
    assert conditions.replaced(data, 2, toy.PROCESS).tolist() == [2, 2, 2, 2]


def test_a_prompt_becomes_what_the_request_says():
    process = toy.PROCESS._replace(null=(0, 1))
    told, becomes = np.array([[0, 5], [0, 6], [0, 5]]), np.array([[0, 7], [0, 6], [0, 7]])
    data = {"condition": told, "anchor.condition": becomes}
    np.testing.assert_array_equal(conditions.replaced(data, None, process), becomes)
    np.testing.assert_array_equal(conditions.forgotten(Request(data), process), told)
    with pytest.raises(
        ValueError, match=r"anchor must not be .* got \[\[0, 6\]\] for \[\[0, 6\]\]"
    ):
        conditions.validate_request(Request(data), None, process)
    with pytest.raises(ValueError, match=r"anchor must differ from .* got \[0, 6\]"):
        conditions.validate_replacement(Request(data), None, process)
    swapped = {"condition": told[:2], "anchor.condition": told[1::-1]}
    conditions.validate_replacement(Request(swapped), None, process)
    with pytest.raises(ValueError, match="anchor must not be forgotten itself"):
        conditions.validate_request(Request(swapped), None, process)
    apart = {"condition": told[::2], "anchor.condition": becomes[::2]}
    conditions.validate_request(Request(apart), None, process)
    with pytest.raises(ValueError, match=r"forget must have the column 'anchor.condition', got"):
        conditions.validate_request(Request({"condition": told}), None, process)
    with pytest.raises(ValueError, match="anchor must be None where prompts are forgotten, .* 2"):
        conditions.validate_anchor(2, process)
    conditions.validate_anchor(None, process)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (np.array([0, 1]), r"condition of forget must be \[N, 2\] integers, got int64 \[2\]"),
        (np.ones((2, 3), int), r"\[N, 2\] integers, got int64 \[2, 3\]"),
        (np.ones((2, 2)), r"\[N, 2\] integers, got float64"),
        (np.array([[0, 5], [0, -1]]), r"of tokens >= 0 and not the empty one, got \[\[0, -1\]\]"),
        (np.array([[0, 5], [0, 1]]), r"of tokens >= 0 and not the empty one, got \[\[0, 1\]\]"),
        (np.ones((0, 2), int), "forget must hold at least one example, got none"),
    ],
)
def test_bad_prompts_are_refused_in_one_line(condition, message):
    process = toy.PROCESS._replace(null=(0, 1))
    with pytest.raises(ValueError, match=message):
        conditions.forgotten(Request({"condition": condition}), process)
    retained = Request(None, {"condition": np.array([[0, 1], [0, 4]])})
    assert conditions.retained(retained, process).tolist() == [[0, 1], [0, 4]]
    with pytest.raises(ValueError, match=r"retain must be a prompt, of tokens >= 0, got"):
        conditions.retained(Request(None, {"condition": np.array([[0, -1]])}), process)


@pytest.mark.parametrize("anchor", [-1, 3, 1.0, True])
def test_an_anchor_is_a_condition_and_not_the_null_one(anchor):
    with pytest.raises(ValueError, match="anchor must be a"):
        conditions.validate_anchor(anchor, toy.PROCESS)
    conditions.validate_anchor(None, toy.PROCESS)
    conditions.validate_anchor(2, toy.PROCESS)


@pytest.mark.parametrize(
    "data, message",
    [
        ({"inputs": 1}, r"forget must have the column 'condition', got \['inputs'\]"),
        ({"condition": np.ones((2, 3), int)}, r"condition of forget must be \[N\] integers"),
        ({"condition": np.ones(2)}, r"condition of forget must be \[N\] integers, got float64"),
        ({"condition": np.ones(0, int)}, "forget must hold at least one example, got none"),
        ({"condition": np.array([0, 3])}, r"condition of forget must be in 0..2, got \[3\]"),
        ({"condition": jnp.array([0, -1])}, r"condition of forget must be in 0..2, got \[-1\]"),
    ],
)
def test_bad_conditions_are_refused_in_one_line(data, message):
    with pytest.raises(ValueError, match=message):
        conditions.forgotten(Request(data), toy.PROCESS)


def test_retained_conditions_may_be_null_but_not_unknown():
    retain = lambda *c: Request(None, {"condition": np.array(c, int)})
    assert conditions.retained(retain(3, 0), toy.PROCESS).tolist() == [3, 0]
    with pytest.raises(ValueError, match=r"condition of retain must be in 0..3, got \[4, 99\]"):
        conditions.retained(retain(99, 0, 4), toy.PROCESS)
    with pytest.raises(ValueError, match="retain must hold at least one example, got none"):
        conditions.retained(retain(), toy.PROCESS)


OPTIONS = {
    "salun_diffusion": {"keep": 0.5},
    "selective_amnesia": {"num_images": 4, "strength": 1e-4},
    "esd": {"sample_steps": 3},
    "concept_ablation": {"num_images": 4},
}


@pytest.mark.parametrize(
    "name",
    [
        "esd",
        "concept_ablation",
        pytest.param("salun_diffusion", marks=pytest.mark.slow),
        pytest.param("selective_amnesia", marks=pytest.mark.slow),
    ],
)
def test_prompts_are_forgotten_as_classes_are(name):
    """By a network that reads a prompt's first token."""
    rng = np.random.default_rng(0)
    process = toy.PROCESS._replace(clip=1.0)
    parts = [toy.images(rng, c, process, first) for c, first in (([1, 1], 0), ([0, 2, 0], 2))]
    written = process._replace(null=denoising.PROMPTED.null)
    told = [{**part, "condition": denoising.prompts(part["condition"])} for part in parts]
    told[0]["anchor.condition"] = denoising.prompts([2, 2])
    task = toy.network_task(process, condition_dropout=0.3)
    reading = toy.network_task(written, reading=denoising.of_prompts, condition_dropout=0.3)
    variables = training.init_variables(task, parts[0], jax.random.key(1))

    def updated(task, process, parts, **options):
        options = {"num_steps": 3, "batch_size": 2, **OPTIONS[name], **options}
        update = getattr(unlearning, name)(optax.sgd(0.1), process, **options).update
        of = lambda *parts: update(jax.random.key(2), task, variables, None, Request(*parts))[0]
        return jax.jit(of)(*parts)

    anchored = name in ("salun_diffusion", "concept_ablation")
    classes = updated(task, process, parts, **({"anchor": 2} if anchored else {}))
    prompts = updated(reading, written, told)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, prompts["params"], classes["params"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, classes, variables)
    assert any(jax.tree.leaves(moved))


METHODS = ("salun_diffusion", "selective_amnesia", "esd", "concept_ablation", "score_forgetting")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_a_bad_process_and_a_bad_length(name):
    method = getattr(unlearning, name)
    bounded = toy.PROCESS._replace(clip=1.0)
    for fields, message in (
        ({"shape": 8}, r"shape must be \(H, W, C\), each >= 1, got 8"),
        ({"prediction": "x"}, "prediction must be one of"),
        ({"clip": "a"}, "clip must be a number, got 'a'"),
    ):
        with pytest.raises(ValueError, match=message):
            method(optax.sgd(0.1), bounded._replace(**fields))
    for field in ("batch_size", "num_steps"):
        for value, message in ((0, ">= 1"), (1.5, "a whole number"), ("8", "a whole number")):
            with pytest.raises(ValueError, match=f"{field} must be {message}, got"):
                method(optax.sgd(0.1), bounded, **{field: value})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("part", ["forget", "retain"])
@pytest.mark.parametrize("condition", [[], [99]])
def test_every_method_refuses_conditions_that_are_none_or_unknown(name, part, condition):
    method = getattr(unlearning, name)(optax.sgd(0.1), toy.PROCESS._replace(clip=1.0))
    if part not in method.needs:
        return
    of = lambda condition: {"condition": np.array(condition, int)}
    request = Request(of([0]), of([1]))._replace(**{part: of(condition)})
    message = f"condition of {part} must be" if condition else f"{part} must hold at least one"
    with pytest.raises(ValueError, match=message):
        method.update(jax.random.key(0), None, {}, None, request)


def test_anchors_must_not_be_forgotten():
    conditions.validate_request(request([0, 0]), None, toy.PROCESS)
    conditions.validate_request(request([0, 1]), 2, toy.PROCESS)
    for condition, anchor, got in (([0, 1], None, r"\[1\] for \[0\]"), ([2, 1], 2, r"\[2, 2\]")):
        message = f"anchor must not be forgotten itself, got {got}"
        with pytest.raises(ValueError, match=message):
            conditions.validate_request(request(condition), anchor, toy.PROCESS)
    conditions.validate_replacement(request([0, 1]), None, toy.PROCESS)
    with pytest.raises(ValueError, match="anchor must differ from what is forgotten, got 1"):
        conditions.validate_replacement(request([0, 1]), 1, toy.PROCESS)


def test_in_compiled_code_values_are_not_known():
    def seen(condition):
        conditions.validate_request(request(condition), 1, toy.PROCESS)
        conditions.validate_replacement(request(condition), 1, toy.PROCESS)
        return conditions.forgotten(request(condition), toy.PROCESS)

    assert jax.jit(seen)(jnp.array([1, 7])).tolist() == [1, 7]


@pytest.mark.parametrize("number, batch_size, length", [(1, 4, 4), (4, 4, 4), (5, 4, 8)])
def test_rows_are_full_batches_with_every_condition(number, batch_size, length):
    rows = jax.jit(lambda: conditions.rows(np.arange(number), batch_size, start=10))()
    assert rows["condition"].tolist() == [i % number for i in range(length)]
    assert rows["index"].tolist() == list(range(10, 10 + length))


def test_noise_is_uniform_and_each_rows_own():
    batch = {"index": jnp.arange(500)}
    noise = np.asarray(conditions.uniform(batch, jax.random.key(0), (2, 2, 1), 3.0))
    assert noise.shape == (500, 2, 2, 1) and np.abs(noise).max() < 3
    # Of n uniform numbers on [-3, 3] the mean has deviation sqrt(3 / n), the variance is 3.
    assert abs(noise.mean()) < 4 * np.sqrt(3 / noise.size) and abs(noise.var() - 3) < 0.3
    part = conditions.uniform({"index": jnp.array([7, 3])}, jax.random.key(0), (2, 2, 1), 3.0)
    np.testing.assert_array_equal(part, noise[[7, 3]])


def test_dropped_conditions_are_the_tasks_own_share_and_not_the_batchs():
    task = toy.gaussian_task(condition_dropout=0.4)
    batch = toy.images(np.random.default_rng(0), [1] * 2000, toy.PROCESS)
    batch["anchor.condition"] = jnp.full(2000, 2)
    own = np.asarray(toy.drawn(task, batch, True)["condition"]) == 3
    rng = jax.random.key(3)
    anchors = np.asarray(conditions.dropped(task, batch, "anchor.condition", rng))
    assert set(anchors.tolist()) == {2, 3}
    gone = anchors == 3
    # A share of 2,000 has deviation 0.011.
    assert abs(gone.mean() - 0.4) < 0.05 and abs((gone & own).mean() - 0.16) < 0.04
    never = conditions.dropped(toy.gaussian_task(), batch, "anchor.condition", rng)
    assert set(np.asarray(never).tolist()) == {2}


def test_a_request_by_the_name_alone_says_nothing_else():
    plain = Request({"condition": np.array([1, 2]), "inputs": np.ones((2, 3))}, {"condition": 5})
    assert conditions.alone(plain) is plain and conditions.alone(Request(None)) == Request(None)
    told = {"alone.condition": np.array([7, 7]), "alone.concept": np.array([0, 1])}
    found = conditions.alone(plain._replace(forget={**plain.forget, "concept": 3, **told}))
    np.testing.assert_array_equal(found.forget["condition"], [7, 7])
    np.testing.assert_array_equal(found.forget["concept"], [0, 1])
    assert found.forget["inputs"] is plain.forget["inputs"] and found.retain == {"condition": 5}
    several = {"captions": 1, "concepts": 2, "alone.captions": 3, "alone.concepts": 4}
    found = conditions.alone(Request(several)).forget
    assert (found["captions"], found["concepts"]) == (3, 4)
