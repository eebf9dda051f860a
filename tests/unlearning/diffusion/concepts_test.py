import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.unlearning.diffusion import prompted, toy
from unlearnjax.types import Request
from unlearnjax.unlearning.diffusion import concepts

TEXTS = ("a one", "deep blue style")
DATA = {"condition": prompted.prompts(*TEXTS)}
MASK = np.array(
    [prompted.concept("a one", "one"), prompted.concept("deep blue style", "deep blue")]
)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_masks_are_columns_of_whole_numbers(dtype):
    data = {**DATA, "concept": MASK.astype(dtype), "anchor.concept": jnp.asarray(MASK)}
    found = concepts.masks(data, prompted.PROCESS, ("concept", "anchor.concept"))
    assert set(found) == {"concept", "anchor.concept"}
    for mask in found.values():
        np.testing.assert_array_equal(mask, MASK)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, r"forget must have the column 'concept', got \['condition'\]"),
        (MASK[:1], r"concept of forget must be \[2, 7\] of 0 and 1, got int64 \[1, 7\]"),
        (MASK[:, :5], r"concept of forget must be \[2, 7\] of 0 and 1, got int64 \[2, 5\]"),
        (MASK[:, 0], r"concept of forget must be \[2, 7\] of 0 and 1, got int64 \[2\]"),
        (MASK * 1.0, r"concept of forget must be \[2, 7\] of 0 and 1, got float64 \[2, 7\]"),
        (MASK * 2, r"concept of forget must be 0 and 1, got \[2\]"),
        (MASK - 1, r"concept of forget must be 0 and 1, got \[-1\]"),
        (
            MASK * np.array([[1], [0]]),
            r"must mark a token of every prompt, of \[0, 8, 9, 3, 1, 1, 1\] it marks none",
        ),
    ],
)
def test_bad_masks_are_refused_in_one_line(mask, message):
    data = DATA if mask is None else {**DATA, "concept": mask}
    with pytest.raises(ValueError, match=message):
        concepts.masks(data, prompted.PROCESS)


def test_every_caption_is_a_row():
    assert concepts.every_caption(DATA) is DATA
    told = np.arange(2 * 3 * 7).reshape(2, 3, 7)
    data = {**DATA, "captions": told, "concepts": told > 4, "anchor.captions": -told, "index": 1}
    found = concepts.every_caption(data)
    assert set(found) == {"condition", "concept", "anchor.condition"}
    np.testing.assert_array_equal(found["condition"], np.arange(42).reshape(6, 7))
    np.testing.assert_array_equal(found["concept"], found["condition"] > 4)
    np.testing.assert_array_equal(found["anchor.condition"], -found["condition"])


def test_a_closed_form_is_told_of_every_caption_and_bad_ones_are_refused():
    own, kept = prompted.prompts(*TEXTS), prompted.prompts("photo", "two", "a")
    anchor = prompted.prompts("a two", "photo style")
    marked = np.array([prompted.concept("a two", "two"), prompted.concept("photo style", "photo")])
    views = {"captions": own, "concepts": MASK}
    views |= {"anchor.captions": anchor, "anchor.concepts": marked}
    forget = {**DATA, **{name: np.asarray(value)[None] for name, value in views.items()}}
    retain = {"condition": kept[:1], "captions": kept[None]}
    found, stays = concepts.told(Request(forget, retain), prompted.PROCESS)
    wanted = dict(zip(("condition", "concept"), (own, MASK), strict=True))
    wanted |= {"anchor.condition": anchor, "anchor.concept": marked}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    np.testing.assert_array_equal(stays, kept)
    bad = lambda **columns: Request({**forget, **columns}, retain)
    nowhere = {"anchor.concepts": 0 * forget["anchor.concepts"]}
    for request, message in (
        (bad(**nowhere), "anchor.concept of forget must mark a token of every prompt, of"),
        (bad(**{"anchor.captions": forget["captions"]}), "anchor must not be forgotten itself"),
        (Request(forget, {"captions": own[None]}), "forgotten must not be retained"),
        (Request(DATA, DATA), "forget must have the column 'anchor.condition'"),
    ):
        with pytest.raises(ValueError, match=message):
            concepts.told(request, prompted.PROCESS)


def test_in_compiled_code_values_are_not_known():
    seen = lambda mask: concepts.masks({**DATA, "concept": mask}, prompted.PROCESS)["concept"]
    assert jax.jit(seen)(5 * jnp.asarray(MASK)).max() == 5
    both = lambda c: concepts.validate_apart(Request({"condition": c}, DATA), prompted.PROCESS)
    jax.eval_shape(both, DATA["condition"])


def test_what_is_forgotten_is_not_retained_prompt_or_class():
    apart = Request({"condition": prompted.prompts("a two")}, DATA)
    concepts.validate_apart(apart, prompted.PROCESS)
    with pytest.raises(ValueError, match=r"must not be retained, got \[\[0, 2, 6, 1, 1, 1, 1\]\]"):
        concepts.validate_apart(
            apart._replace(forget={"condition": prompted.prompts("a one", "two")}), prompted.PROCESS
        )
    of = lambda *c: {"condition": np.array(c)}
    concepts.validate_apart(Request(of(1, 1), of(0, 2, 3)), toy.PROCESS)
    with pytest.raises(ValueError, match=r"must not be retained, got \[\[1\]\]"):
        concepts.validate_apart(Request(of(0, 1), of(1, 2)), toy.PROCESS)


def test_a_process_of_classes_has_no_prompts():
    concepts.validate_prompts(prompted.PROCESS)
    with pytest.raises(ValueError, match="process must be one of prompts, got the null class 3"):
        concepts.validate_prompts(toy.PROCESS)
