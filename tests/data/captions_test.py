import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import tasks
from unlearnjax.data import captions
from unlearnjax.types import Task

STYLES, OBJECTS = ("photo", "Van_Gogh"), ("three", "sea lion")
EVERY = captions.TEMPLATES + captions.HELD_OUT


@pytest.fixture(scope="module")
def words():
    return captions.vocabulary(STYLES, OBJECTS)


def test_a_caption_begins_ends_and_is_filled_up_with_what_ends_it(words):
    assert words.words[:2] == ("<s>", "</s>") and words.length == 12
    assert list(words.words[2:]) == sorted(set(words.words[2:]))
    found = captions.encode(words, ["A three image, in Van_Gogh style.", ""])
    text = ["<s>", "a", "three", "image", "in", "van", "gogh", "style"] + ["</s>"] * 4
    assert [words.words[token] for token in found[0]] == text
    assert found.dtype == np.int32
    assert tuple(found[1].tolist()) == words.empty == (0, *[1] * 11)
    assert captions.decode(words, found) == ["a three image in van gogh style", ""]
    assert captions.encode(words, []).shape == (0, 12)


def test_all_words_of_templates_and_names_are_known_and_no_others(words):
    plain = "a image in style picture of the drawn photo van gogh three sea lion".split()
    assert set(words.words) == {"<s>", "</s>", *plain}


def test_prompts_are_filled_in_and_say_where_what_is_named(words):
    found = captions.prompts(words, STYLES, OBJECTS, EVERY)
    assert found.tokens.shape == found.style.shape == (2, 2, 6, 12)
    for i, style in enumerate(("photo", "van gogh")):
        for j, name in enumerate(OBJECTS):
            for k, template in enumerate(EVERY):
                text = template.replace("{style}", style).replace("{object}", name)
                place = i, j, k
                (decoded,) = captions.decode(words, found.tokens[place][None])
                assert decoded == text
                of = {"style": style, "object": name}
                for role, marks in (("style", found.style), ("object", found.object)):
                    # By hand: how many words stand before the name.
                    expected = np.zeros(12, bool)
                    if "{" + role + "}" in template:
                        before = template.split("{" + role + "}")[0]
                        before = before.replace("{style}", style).replace("{object}", name)
                        start = 1 + len(before.split())
                        expected[start : start + len(of[role].split())] = True
                    np.testing.assert_array_equal(marks[place], expected)


def test_a_word_of_a_template_that_a_name_shares_is_not_marked():
    templates = ("a {object} image in {style} style",)
    words = captions.vocabulary(["image"], ["style"], templates)
    found = captions.prompts(words, ["image"], ["style"], templates)
    assert np.flatnonzero(found.style).tolist() == [5]
    assert np.flatnonzero(found.object).tolist() == [2]


def test_the_first_template_is_the_benchmarks_and_those_held_out_are_others():
    assert captions.TEMPLATES[0] == "a {object} image in {style} style"
    assert not set(captions.TEMPLATES) & set(captions.HELD_OUT)
    assert captions.naming(captions.HELD_OUT, "style", "object") == [0, 1]  # they name everything


def test_what_asks_for_a_concept_names_it_and_no_more(words):
    texts = lambda **names: captions.decode(words, captions.template_prompts(words, **names))
    assert texts(style="photo") == ["photo style"]
    assert texts(object="sea lion") == ["a sea lion"]
    both = ["a three image in photo style", "photo picture of a three"]
    assert texts(style="photo", object="three") == both
    held_out = texts(style="photo", object="three", templates=captions.HELD_OUT)
    assert held_out == ["the three drawn in photo style", "the photo three"]
    with pytest.raises(ValueError, match="a style or an object must be given, got neither"):
        captions.template_prompts(words)
    with pytest.raises(ValueError, match=r"one that names \['style'\] and no more"):
        captions.template_prompts(words, style="photo", templates=captions.HELD_OUT)


def test_training_draws_one_caption_and_what_belongs_to_it():
    """Every caption equally often; marks and views from the same place; evaluation draws none."""
    number, size = 3, 600
    rows = {
        "index": jnp.arange(size),
        "condition": jnp.full((size, 2), 7),
        "captions": jnp.tile(jnp.arange(number)[None, :, None], (size, 1, 2)),
        "concepts": jnp.tile(jnp.arange(number)[None, :, None] == 1, (size, 1, 2)),
        "anchor.captions": jnp.tile(10 + jnp.arange(number)[None, :, None], (size, 1, 2)),
    }
    nothing = Task(lambda *_: {}, lambda *_: {}, lambda *_: 0, lambda *_: {})
    task = tasks.augmented(nothing, captions.paraphrased)
    drawn = tasks.drawn(task, tasks.keyed(rows, jax.random.key(0)), train=True)
    which = np.asarray(drawn["condition"][:, 0])
    counts = collections.Counter(which.tolist())
    assert set(counts) == {0, 1, 2} and min(counts.values()) > 160  # 200 +- 3.5 deviations of 11.5
    np.testing.assert_array_equal(drawn["condition"], np.stack([which, which], 1))
    np.testing.assert_array_equal(drawn["concept"][:, 0], which == 1)
    np.testing.assert_array_equal(drawn["anchor.condition"][:, 0], 10 + which)
    plain = {name: rows[name] for name in ("index", "condition")}
    kept = tasks.drawn(task, tasks.keyed(plain, jax.random.key(0)), train=True)
    np.testing.assert_array_equal(kept["condition"], rows["condition"])
    evaluated = tasks.drawn(task, rows)
    np.testing.assert_array_equal(evaluated["condition"], rows["condition"])


def test_captions_that_cannot_be_are_refused(words):
    with pytest.raises(ValueError, match="got 'thre'; did you mean 'three'"):
        captions.encode(words, ["a thre"])
    with pytest.raises(ValueError, match="at most 10 words, got 'a a a a"):
        captions.encode(words, [" ".join("a" * 11)])
    assert captions.encode(words, [" ".join("a" * 10)])[0, -1] == 1
    with pytest.raises(ValueError, match="texts must be several"):
        captions.encode(words, "a three")
    with pytest.raises(ValueError, match="at most 2 words"):
        captions.vocabulary(STYLES, OBJECTS, length=4)
    with pytest.raises(ValueError, match="length must be >= 3"):
        captions.vocabulary(STYLES, OBJECTS, ["a"], length=2)
    for one in (("neon", OBJECTS), (STYLES, "three"), (STYLES, OBJECTS, "a {object}")):
        with pytest.raises(ValueError, match="(styles|objects|templates) must be several names"):
            captions.vocabulary(*one)
    with pytest.raises(ValueError, match="must be named by a word, got '_.'"):
        captions.vocabulary(["_."], OBJECTS)
    with pytest.raises(ValueError, match="templates must be at least one"):
        captions.prompts(words, STYLES, OBJECTS, ())
    with pytest.raises(ValueError, match="roles must be among"):
        captions.naming(captions.TEMPLATES, "place")
