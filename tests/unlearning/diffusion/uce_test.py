import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import problems
from tests.unlearning.diffusion import prompted
from unlearnjax import trees, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.diffusion import leaves, uce

# The concept lies at other places, and is of other lengths, than the anchor.
GONE = [
    ("a one in neon style", "neon", "a one in photo style", "photo"),
    ("deep blue style", "deep blue", "photo style", "photo"),
    ("two in neon", "neon", "photo", "photo"),
]
KEPT = ["a one in photo style", "two", "a two"]
D = prompted.WIDTH


def forget_of(rows):
    return {
        "condition": prompted.prompts(*(row[0] for row in rows)),
        "concept": jnp.array([prompted.concept(*row[:2]) for row in rows]),
        "anchor.condition": prompted.prompts(*(row[2] for row in rows)),
        "anchor.concept": jnp.array([prompted.concept(*row[2:]) for row in rows]),
        "index": jnp.arange(len(rows)),
    }


REQUEST = Request(
    forget_of([GONE[0], *GONE, GONE[1]]), {"condition": prompted.prompts(*KEPT, *KEPT[:2])}
)


@functools.cache
def hidden(text):
    """`[L, D]`, by the encoder alone."""
    params = {"params": prompted.VARIABLES["params"]["text_encoder"]}
    return np.float64(prompted.Encoder().apply(params, prompted.prompts(text))["hidden"][0])


def pairs(tokens="onwards"):
    """All (c, a) of the distinct prompts, in the words of the published code."""
    for text, words, anchor, own in GONE:
        starts = [text.split().index(words.split()[-1]) + 1, anchor.split().index(own) + 1]
        length = 1 if tokens == "last" else prompted.LENGTH - max(starts)
        for i in range(length):
            yield hidden(text)[starts[0] + i], hidden(anchor)[starts[1] + i]


def kept_rows(tokens="onwards"):
    for text in [*KEPT, ""]:
        last = len(text.split())
        yield from hidden(text)[last : last + 1] if tokens == "last" else hidden(text)


def kernels(params):
    """`{name: [D, ...]}`."""
    leaves = zip(trees.names(params), jax.tree.leaves(params), strict=True)
    return {name: np.float64(leaf) for name, leaf in leaves if ".cross." in name}


def least_squares(kernel, erase, preserve, ridge, tokens):
    """Ridge regression by NumPy on stacked rows."""
    c, a = (np.array(rows) for rows in zip(*pairs(tokens), strict=True))
    r = np.array(list(kept_rows(tokens)))
    blocks = [(erase, c, a @ kernel), (preserve, r, r @ kernel), (ridge, np.eye(D), kernel)]
    left = np.concatenate([np.sqrt(w) * x for w, x, _ in blocks])
    right = np.concatenate([np.sqrt(w) * y for w, _, y in blocks])
    return np.linalg.lstsq(left, right, rcond=None)[0]


def run(request=REQUEST, variables=prompted.VARIABLES, compiled=True, **options):
    method = unlearning.enforce(unlearning.uce(prompted.PROCESS, **options))
    update = lambda v, request: method.update(None, prompted.TASK, v, (), request)[0]
    return (jax.jit(update) if compiled else update)(variables, request)["params"]


@pytest.mark.parametrize(
    ("options", "compiled"),
    [
        ({}, True),
        ({"erase_weight": 0.3, "preserve_weight": 0.7, "ridge": 0.05}, False),
        ({"tokens": "last", "preserve_weight": 1.0}, True),
    ],
)
def test_it_is_ridge_regression_on_each_distinct_prompt_once(options, compiled):
    found = run(compiled=compiled, **options)
    before = kernels(prompted.VARIABLES["params"])
    published = {"erase_weight": 1.0, "preserve_weight": 0.1, "ridge": 0.5, "tokens": "onwards"}
    weights = list((published | options).values())
    for name, kernel in kernels(found).items():
        edited = name.split(".")[3] in ("key", "value")
        wanted = least_squares(before[name], *weights) if edited else before[name]
        np.testing.assert_allclose(kernel, wanted, rtol=1e-5, atol=1e-6 if edited else 0)
        assert edited == (np.abs(kernel - before[name]).max() > 1e-3)
    for name in ("text_encoder",):
        jax.tree.map(np.testing.assert_array_equal, found[name], prompted.VARIABLES["params"][name])


TABLE = np.random.default_rng(0).normal(size=(len(prompted.WORDS), 5)).astype(np.float32)
WEIGHTS = {"erase_weight": 1.0, "preserve_weight": 0.0}


def lookup(prompts):
    """An encoder of words by themselves."""
    return jnp.asarray(TABLE)[prompts]


def params_of(*shape, dtype=jnp.float32):
    drawn = np.random.default_rng(1).normal(size=(2, *shape))
    named = dict(zip(("key", "value"), jnp.asarray(drawn, dtype), strict=True))
    named = {name: {"kernel": kernel, "bias": jnp.ones(2)} for name, kernel in named.items()}
    return {"b": {"cross": {**named, "query": {"kernel": jnp.ones((3, 3))}}}}


def totals(rows, kept=("a",), **options):
    options = {**WEIGHTS, **options}
    of = lambda forget, kept: uce.sums(lookup, forget, kept, prompted.NULL, **options)
    return jax.jit(of)(forget_of(rows), prompted.prompts(*kept))


ONE = [("neon", "neon", "photo", "photo")]
AT = leaves.KEYS_AND_VALUES


def test_without_a_ridge_one_concept_is_mapped_to_its_anchor_exactly():
    word = {name: TABLE[prompted.WORDS.index(name)] for name in ("neon", "photo")}
    before = params_of(5, 4)
    found = uce.edited(before, totals(ONE, tokens="last"), 1e-9, AT)
    for name, kernel in found["b"]["cross"].items():
        own = before["b"]["cross"][name]["kernel"]
        if name == "query":
            np.testing.assert_array_equal(kernel["kernel"], own)
            continue
        np.testing.assert_allclose(word["neon"] @ kernel["kernel"], word["photo"] @ own, rtol=1e-5)
        # Across the concept nothing changes.
        across = np.linalg.svd(word["neon"][None])[2][1:]
        np.testing.assert_allclose(across @ kernel["kernel"], across @ own, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(kernel["bias"], before["b"]["cross"][name]["bias"])


def test_captions_are_prompts_in_the_place_of_the_one_that_is_told():
    of = lambda rows: forget_of(rows)["condition"]
    flat = forget_of([*GONE, ONE[0]])
    views = (("", "captions", "concepts"), ("anchor.", "captions", "concepts"))
    forget = {"condition": of(ONE * 2)}  # of no effect
    for view, first, second in views:
        for many, one in ((first, "condition"), (second, "concept")):
            forget[view + many] = flat[view + one].reshape(2, 2, -1)
    kept = prompted.prompts(*KEPT, "a")
    retain = {"condition": of(ONE * 2), "captions": kept.reshape(2, 2, -1)}
    found = run(Request(forget, retain), compiled=False)
    problems.assert_trees_close(found, run(Request(flat, {"condition": kept})), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_with_nothing_to_erase_all_is_as_it_was_bit_for_bit(dtype):
    before = params_of(5, 2, 3, dtype=dtype)
    for found in (
        uce.edited(before, totals(ONE, erase_weight=0.0, preserve_weight=2.0), 0.5, AT),
        uce.edited(before, totals([("neon", "neon", "neon", "neon")]), 0.5, AT),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, before)
        kernel = found["b"]["cross"]["key"]["kernel"]
        assert kernel.dtype == dtype and kernel.shape == (5, 2, 3)


def test_kernels_of_heads_are_edited_as_flat_ones():
    of = lambda *shape: uce.edited(params_of(*shape), totals(ONE), 0.5, AT)["b"]["cross"]
    found = of(5, 2, 3)["value"]["kernel"]
    np.testing.assert_allclose(found.reshape(5, 6), of(5, 6)["value"]["kernel"], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2])
def test_prompts_are_looked_at_in_chunks_and_repetitions_not_at_all(monkeypatch, chunk):
    rows, kept = [*ONE * 5, *GONE], ["a", "two", "a", "a", "two", "a one"]
    plain = totals([ONE[0], *GONE], ["a", "two", "a one"], preserve_weight=0.5)
    monkeypatch.setattr(uce, "_CHUNK", chunk)
    found = totals(rows, kept, preserve_weight=0.5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), found, plain)
    assert found.gram.dtype == found.shift.dtype == np.float64


def test_a_prompt_that_fills_all_places_has_its_last_word_there():
    full = "a one in deep blue style"
    found = totals(ONE, [full], tokens="last", erase_weight=0.0, preserve_weight=1.0)
    words = TABLE[[prompted.WORDS.index("style"), prompted.START]]
    np.testing.assert_allclose(found.gram, np.float64(words).T @ words, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.0}, "ridge must be > 0, got 0.0"),
        ({"ridge": float("nan")}, "ridge must be finite, got nan"),
        ({"erase_weight": -1.0}, "erase_weight must be >= 0, got -1.0"),
        ({"preserve_weight": float("inf")}, "preserve_weight must be finite, got inf"),
        ({"tokens": "lst"}, "tokens must be one of .*; did you mean 'last'"),
        ({"encoder": ""}, "encoder must be one name"),
        (
            {"process": prompted.PROCESS._replace(null=3)},
            "process must be one of prompts, got .* 3",
        ),
        ({"process": prompted.PROCESS._replace(prediction="x")}, "prediction must be one of"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.uce(**{"process": prompted.PROCESS, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": ["*.key", "*.vale"]}, r"where must be among .* got '\*\.vale'"),
        ({"where": ["*.bias"]}, "where must mean kernels, of .* it means none"),
        ({"where": ["denoiser.patches"]}, r"kernels of \[8, ...\], .* denoiser.patches.kernel"),
        ({"encoder": "text_encoder.hiden"}, "did you mean 'text_encoder.hidden'"),
        ({"encoder": "text_encoder.pooled"}, r"\[5, 7, D\] for 5 prompts, .*pooled' is \[5, 8\]"),
    ],
)
def test_what_the_model_has_not_is_refused_by_name(options, message):
    method = unlearning.uce(prompted.PROCESS, **options)
    update = lambda v: method.update(None, prompted.TASK, v, (), REQUEST)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(update, prompted.VARIABLES)


def test_integer_kernels_are_refused():
    whole = jax.tree.map(lambda x: x.astype(jnp.int8), params_of(5, 4))
    with pytest.raises(ValueError, match="b.cross.key.kernel must be floating-point"):
        uce.edited(whole, totals(ONE), 0.5, AT)


def test_a_request_must_say_where_the_concept_is_and_not_keep_it():
    method = unlearning.uce(prompted.PROCESS)
    without = {k: v for k, v in REQUEST.forget.items() if k != "anchor.concept"}
    for request, message in (
        (REQUEST._replace(forget=without), "forget must have the column 'anchor.concept'"),
        (REQUEST._replace(retain=REQUEST.forget), "forgotten must not be retained, got"),
        (REQUEST._replace(retain=None), "this unlearner needs 'retain' data"),
    ):
        with pytest.raises(ValueError, match=message):
            unlearning.enforce(method).update(None, None, prompted.VARIABLES, (), request)
    assert method.needs == {"forget", "retain"}
