"""The task on a table of what follows each token, which is a language model."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tests import sentences
from tests.sentences import ANSWER, BATCH, KEY, PROMPTS, RNG, TOKENS, B, T, V
from unlearnjax import attribution, curvature, tasks, unlearning
from unlearnjax.unlearning import objectives


def follows(variables, batch, rng, train):
    """What comes next depends on the token alone; 'hidden' and 'head' multiply to that."""
    hidden, head = variables["params"]["hidden"][batch["inputs"]], variables["params"]["head"]
    return {"hidden": hidden, "head": head, "logits": hidden @ head}, variables


TABLE = {
    "params": {
        "hidden": jnp.asarray(RNG.normal(size=(V, 4)), jnp.float32),
        "head": jnp.asarray(RNG.normal(size=(4, V)), jnp.float32),
    }
}
PAIR = tasks.Model(lambda rng, batch: TABLE, follows)
# Its parameters are the logits.
GIVEN = tasks.Model(None, lambda v, batch, rng, train: ({"logits": v["params"]}, v))


def outputs(task, variables=TABLE, batch=BATCH):
    return sentences.outputs(task, variables, batch)


def log_probs():
    """`[B, T, V]`, in NumPy and double precision."""
    hidden, head = (np.asarray(TABLE["params"][name], np.float64) for name in ("hidden", "head"))
    return special.log_softmax(hidden[TOKENS[:, :-1]] @ head, axis=-1)


def of_targets():
    return np.take_along_axis(log_probs(), TOKENS[:, 1:, None], -1)[..., 0]


def by_answer(values):
    """Each example's values at its answer."""
    return [row[mask > 0] for row, mask in zip(np.asarray(values), ANSWER, strict=True)]


@pytest.mark.parametrize("chunk", [None, 4])
def test_losses_and_metrics_equal_those_by_hand(chunk):
    task = tasks.language_modelling(PAIR, chunk=chunk)
    found = outputs(task)
    np.testing.assert_allclose(found["log_probs"], of_targets(), rtol=1e-5)
    rows = by_answer(of_targets())
    np.testing.assert_allclose(task.loss(found, BATCH), [-row.mean() for row in rows], rtol=1e-5)
    metrics = task.metrics(found, BATCH)
    expected = [np.exp(row.mean()) for row in rows]
    np.testing.assert_allclose(metrics["probability"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["log_likelihood"], [row.sum() for row in rows], rtol=1e-5)
    odds = by_answer(of_targets() - np.log1p(-np.exp(of_targets())))
    np.testing.assert_allclose(metrics["margin"], [row.mean() for row in odds], rtol=1e-4)
    right = by_answer(log_probs().argmax(-1) == TOKENS[:, 1:])
    np.testing.assert_allclose(metrics["accuracy"], [row.mean() for row in right])
    states = by_answer(TABLE["params"]["hidden"][TOKENS[:, :-1]])
    np.testing.assert_allclose(found["features"], [row.mean(0) for row in states], rtol=1e-5)
    assert "head" not in found and ("logits" in found) == (chunk is None)


def test_all_tokens_are_those_up_to_the_end_of_the_answer():
    task = tasks.language_modelling(PAIR, over="all")
    rows = zip(of_targets(), (5, 6, 5), strict=True)
    expected = [-row[:end].mean() for row, end in rows]
    np.testing.assert_allclose(task.loss(outputs(task), BATCH), expected, rtol=1e-5)
    # Metrics are those of the answer all the same.
    plain = tasks.language_modelling(PAIR)
    found = [own.metrics(outputs(own), BATCH)["probability"] for own in (task, plain)]
    np.testing.assert_array_equal(*found)


def test_margins_stay_finite_where_the_model_is_certain():
    task = tasks.language_modelling(GIVEN)
    logits = jnp.array([[[60.0, 0.0, 1.0], [0.0, 0.0, -50.0]]])
    batch = {"targets": jnp.array([[0, 2]])}
    found = outputs(task, {"params": logits}, batch)["margins"]
    others = [np.logaddexp(0, 1), np.log(2)]
    np.testing.assert_allclose(found, [[60 - others[0], -50 - others[1]]], rtol=1e-6)


def test_what_can_never_be_said_costs_nothing_in_a_prompt():
    task = tasks.language_modelling(
        tasks.Model(None, lambda v, b, r, t: ({"logits": v["params"]}, v))
    )
    logits = jnp.array([[[0.0, -jnp.inf], [0.0, 1.0]]])
    batch = {"targets": jnp.array([[1, 1]]), "answer": jnp.array([[0.0, 1.0]])}
    loss = lambda x: task.loss(outputs(task, {"params": x}, batch), batch)[0]
    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, np.log1p(np.exp(-1)), rtol=1e-6)
    assert np.isfinite(gradient[0, 1]).all() and not gradient[0, 0].any()
    found = task.metrics(outputs(task, {"params": logits}, batch), batch)
    assert all(np.isfinite(x).all() for x in found.values())


def test_of_equal_logits_the_first_is_taken_as_the_likeliest():
    task = tasks.language_modelling(GIVEN)
    logits = jnp.array(list(itertools.product([0.0, 1.0], repeat=3)))
    for target in range(3):
        batch = {"targets": jnp.full((1, 8), target)}
        found = outputs(task, {"params": logits[None]}, batch)["correct"][0]
        np.testing.assert_array_equal(found, logits.argmax(-1) == target)


@pytest.mark.parametrize("eos", [None, 6, (5, 6), (0, 3, 5, 6)])
def test_extraction_strength_equals_the_search_for_the_shortest_prefix(eos):
    task = tasks.language_modelling(PAIR, eos=eos)
    ends = () if eos is None else tuple(np.atleast_1d(eos))
    patterns = np.array(list(itertools.product([0, 1], repeat=4)), np.float32)
    targets = np.array([[0, 3, 5, 6]])
    correct = np.pad(patterns, ((0, 0), (1, 1)), constant_values=0)  # a prompt, and padding

    given = {
        "answer": jnp.pad(jnp.ones((16, 4)), ((0, 0), (1, 1))),
        "targets": jnp.pad(jnp.tile(targets, (16, 1)), ((0, 0), (1, 1))),
    }
    found = {name: jnp.zeros((16, 6)) for name in ("log_probs", "margins")}
    metrics = task.metrics({**found, "correct": jnp.asarray(correct)}, given)
    expected = [searched(pattern, targets[0], ends) for pattern in patterns]
    np.testing.assert_allclose(metrics["extraction"], expected, atol=1e-6)


def searched(correct, targets, ends=()):
    """Extraction strength by its definition, of an answer whose tokens are right or not."""
    right = [r for r, token in zip(correct, targets, strict=True) if token not in ends]
    k = next(k for k in range(len(right) + 1) if all(right[k:]))
    return 1 - k / len(right) if right else 0


def test_answers_cut_to_fit_lose_no_token_to_an_end_that_they_have_not():
    rng = np.random.default_rng(0)
    lengths = np.array([1, 2, 3, 7, 12, 5, 10, 11])
    answer = (np.arange(14) >= 2) & (np.arange(14) < 2 + lengths[:, None])
    targets = rng.integers(0, 6, answer.shape)
    targets[::2, :][np.arange(14) == 1 + lengths[::2, None]] = 6  # every other one is whole
    task = tasks.language_modelling(PAIR, eos=6)
    other = {name: jnp.zeros(answer.shape) for name in ("log_probs", "margins")}
    for share in (0.3, 0.8, 1.0):
        correct = rng.uniform(size=answer.shape) < share
        given = {"answer": jnp.asarray(answer), "targets": jnp.asarray(targets)}
        outputs = {**other, "correct": jnp.asarray(correct, jnp.float32)}
        found = task.metrics(outputs, given)
        rows = [(c[a], t[a]) for c, t, a in zip(correct, targets, answer, strict=True)]
        expected = [searched(*row, ends=(6,)) for row in rows]
        np.testing.assert_allclose(found["extraction"], expected, atol=1e-6)
        np.testing.assert_allclose(found["accuracy"], [c.mean() for c, _ in rows], rtol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, bool, jnp.bfloat16, np.int32])
def test_the_type_of_the_mask_changes_nothing(kind):
    """Of 300 tokens, which are more than the small types count."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 300, 3)), rng.integers(0, 3, (2, 300))
    spoken = (np.arange(300) >= 10) & (np.arange(300) < np.array([[300], [290]]))
    batch = {"answer": jnp.asarray(spoken).astype(kind), "targets": jnp.asarray(targets)}
    all_log_probs = special.log_softmax(logits, axis=-1)
    log_probs = np.take_along_axis(all_log_probs, targets[..., None], -1)[..., 0]
    correct = logits.argmax(-1) == targets
    odds = log_probs - np.log1p(-np.exp(log_probs))
    rows = lambda values: [row[own] for row, own in zip(values, spoken, strict=True)]
    means = lambda values: [row.mean(0) for row in rows(values)]
    task = tasks.language_modelling(GIVEN)
    found = outputs(task, {"params": jnp.asarray(logits, jnp.float32)}, batch)
    close = lambda own, expected: np.testing.assert_allclose(own, expected, rtol=1e-4)
    metrics = task.metrics(found, batch)
    close(metrics["accuracy"], means(correct))
    close(metrics["probability"], np.exp(means(log_probs)))
    close(metrics["log_likelihood"], [row.sum() for row in rows(log_probs)])
    close(metrics["margin"], means(odds))
    # The last wrong token is behind the 256th: the prefix is a number beyond the small types, too.
    late = correct.copy()
    late[:, 280:], late[:, 275] = True, False
    told = {**found, "correct": jnp.asarray(late, jnp.float32)}
    strengths = [searched(*row) for row in zip(rows(late), rows(targets), strict=True)]
    close(task.metrics(told, batch)["extraction"], strengths)
    close(task.loss(found, batch), [-mean for mean in means(log_probs)])
    close(tasks.over_answer(found["logits"], batch), means(logits))
    everything = tasks.language_modelling(GIVEN, over="all")
    whole = [-row[:end].mean() for row, end in zip(log_probs, (300, 290), strict=True)]
    close(everything.loss(found, batch), whole)


@pytest.mark.parametrize("chunk", [4, 9])
def test_chunks_change_neither_outputs_nor_gradients(chunk):
    plain, own = tasks.language_modelling(PAIR), tasks.language_modelling(PAIR, chunk=chunk)

    def both(task):
        def loss(params):
            found = outputs(task, {"params": params})
            return task.loss(found, BATCH).sum(), found

        (_, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(TABLE["params"])
        return {k: v for k, v in found.items() if k != "logits"}, gradient

    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, both(own), both(plain))


def test_with_chunks_no_logits_of_all_positions_are_ever_there():
    task = tasks.language_modelling(PAIR, chunk=2)
    loss = lambda params: task.loss(outputs(task, {"params": params}), BATCH).sum()
    compiled = jax.jit(jax.grad(loss)).lower(TABLE["params"]).compile().as_text()
    assert f"f32[{B},2,{V}]" in compiled
    assert f"f32[{B},{T},{V}]" not in compiled


def test_divergence_is_the_mean_over_the_answer():
    task = tasks.language_modelling(PAIR)
    other = jax.tree.map(lambda x: x + 0.3, TABLE)
    mine, theirs = outputs(task), outputs(task, other)
    for t in (1.0, 2.0):
        p, q = (special.log_softmax(np.float64(x["logits"]) / t, -1) for x in (theirs, mine))
        kl = by_answer((np.exp(p) * (p - q)).sum(-1))
        found = task.divergence(mine, theirs, BATCH, t)
        np.testing.assert_allclose(found, [t**2 * row.mean() for row in kl], rtol=1e-4)
    np.testing.assert_allclose(task.divergence(mine, mine, BATCH), 0.0, atol=1e-7)


def test_divergence_refuses_outputs_without_logits():
    task = tasks.language_modelling(PAIR, chunk=2)
    found = outputs(task)
    with pytest.raises(ValueError, match="must return 'logits', it returns .*'log_probs'"):
        task.divergence(found, found, BATCH)


def test_terms_over_classes_are_means_over_the_answer():
    task = tasks.language_modelling(PAIR)
    found, nobody = outputs(task), {}
    teachers = {"original": outputs(task, jax.tree.map(lambda x: x + 0.3, TABLE))}
    uniform = objectives.uniform_target(task, found, BATCH, nobody)
    expected = by_answer(-log_probs().mean(-1) - np.log(V))
    np.testing.assert_allclose(uniform, [row.mean() for row in expected], rtol=1e-5)
    bounded = objectives.bounded_loss()(task, found, BATCH, nobody)
    np.testing.assert_allclose(bounded, np.minimum(task.loss(found, BATCH), np.log(V)), rtol=1e-6)
    assert (np.asarray(bounded) < np.asarray(task.loss(found, BATCH))).any()
    apart = objectives.output_distance()(task, found, BATCH, teachers)
    distances = np.asarray(found["logits"] - teachers["original"]["logits"], np.float64)
    expected = by_answer((distances**2).sum(-1) / 2)
    np.testing.assert_allclose(apart, [row.mean() for row in expected], rtol=1e-4)


def test_margins_can_be_attributed_and_logits_cannot():
    task = tasks.language_modelling(PAIR)
    found = attribution.margin_output(task, TABLE, BATCH)
    expected = task.metrics(outputs(task), BATCH)["margin"]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"the task must have 'logits' \[B, C\], they are \[3, 6"):
        attribution.logit_output(task, TABLE, BATCH)


def test_what_tells_classes_apart_refuses_tokens():
    task = tasks.language_modelling(PAIR)
    with pytest.raises(ValueError, match=r"the task must have classes, .*logits \[3, 6, 7\]"):
        tasks.num_classes(outputs(task))
    with pytest.raises(ValueError, match="the task must have classes"):
        curvature.fisher.sample_targets(KEY, task, TABLE, {**BATCH, "index": jnp.arange(B)})
    stacked = jax.tree.map(lambda x: x[None], TABLE)
    with pytest.raises(ValueError, match="the task must have classes"):
        unlearning.averaged(task).apply(stacked, BATCH, None, False)


def test_padding_examples_lose_nothing_and_have_no_gradient():
    task = tasks.language_modelling(PAIR)
    empty = {name: jnp.zeros_like(value) for name, value in BATCH.items()}
    loss = lambda params: task.loss(outputs(task, {"params": params}, empty), empty).sum()
    value, gradient = jax.value_and_grad(loss)(TABLE["params"])
    assert value == 0 and not any(x.any() for x in jax.tree.leaves(gradient))
    metrics = task.metrics(outputs(task, TABLE, empty), empty)
    assert all(np.isfinite(x).all() for x in metrics.values())
    assert not metrics["extraction"].any() and not metrics["accuracy"].any()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"over": "prompt"}, "over must be one of"),
        ({"chunk": 0}, "chunk must be >= 1, got 0"),
        ({"chunk": 1.5}, "chunk must be a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1"),
        ({"temperature": -1}, "temperature must be >= 0"),
        ({"temperature": np.nan}, "temperature must be"),
        ({"eos": "</s>"}, "eos must be a whole number"),
    ],
)
def test_bad_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        tasks.language_modelling(PAIR, **wrong)


def test_columns_that_are_missing_or_of_other_shapes_are_named():
    task = tasks.language_modelling(PAIR)
    without = lambda name: {k: v for k, v in BATCH.items() if k != name}
    with pytest.raises(ValueError, match="needs the column 'answer'"):
        task.loss(outputs(task, batch=without("answer")), without("answer"))
    with pytest.raises(ValueError, match="needs the column 'log_probs'"):
        task.loss(outputs(task, batch=without("targets")), without("targets"))
    with pytest.raises(ValueError, match=r"targets must be \[3, 6\], .* got \[3, 5\]"):
        outputs(task, batch={**BATCH, "targets": BATCH["targets"][:, 1:]})
    with pytest.raises(ValueError, match=r"values must be of each token, \[3, 6\] as answer"):
        tasks.over_answer(jnp.ones((3, 5)), BATCH)
    with pytest.raises(ValueError, match="needs the column 'condition_length'"):
        tasks.generate(task, TABLE, KEY, {"condition": PROMPTS["condition"]})
    alone = tasks.Model(None, lambda v, b, r, t: ({"logits": follows(v, b, r, t)[0]["logits"]}, v))
    with pytest.raises(ValueError, match="needs the column 'hidden'"):
        outputs(tasks.language_modelling(alone, chunk=2))


def test_a_model_without_a_cache_generates_too():
    task = tasks.language_modelling(PAIR, max_new_tokens=5, eos=4)
    after = np.asarray(TABLE["params"]["hidden"] @ TABLE["params"]["head"]).argmax(-1)
    found = jax.jit(lambda: tasks.generate(task, TABLE, KEY, PROMPTS))()
    given = PROMPTS["condition"], PROMPTS["condition_length"], found["tokens"], found["length"]
    for row, n, tokens, length in zip(*given, strict=True):
        token, expected = int(row[n - 1]), []
        while len(expected) < 5 and (token := int(after[token])) != 4:
            expected.append(token)
        assert tokens[:length].tolist() == expected
        assert (tokens[length:] == 4).all()


def test_sensitivity_of_outputs_is_that_of_the_answer():
    task = tasks.language_modelling(PAIR)
    found = curvature.output_sensitivity(task, TABLE, BATCH, batch_size=B)

    def size(params, row, mask):
        logits = params["hidden"][row] @ params["head"]
        return jnp.sum((logits**2).sum(-1) * mask) / mask.sum()

    each = jax.vmap(jax.grad(size), (None, 0, 0))(TABLE["params"], BATCH["inputs"], ANSWER)
    close = lambda x, g: np.testing.assert_allclose(x, np.abs(g).mean(0), rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, each)
