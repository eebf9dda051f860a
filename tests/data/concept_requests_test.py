import numpy as np
import pytest

from unlearnjax.data import captions, concept_requests, style_grid
from unlearnjax.data.concept_requests import Concept

STYLES, OBJECTS = ("photo", "crimson", "neon"), ("zero", "one", "two")


@pytest.fixture(scope="module")
def grid():
    images = np.random.default_rng(0).uniform(size=(12, 4, 4))
    return style_grid.rendered(
        (images[:9], np.arange(9) % 3), (images[9:], np.arange(3)), OBJECTS, STYLES
    )


def requested(spec):
    return concept_requests.requested(spec, STYLES, OBJECTS)


def test_a_text_says_what_is_forgotten_at_once_and_one_after_another():
    assert requested("style:neon") == [[Concept(style=2)]]
    assert requested("style:neon+crimson") == [[Concept(2), Concept(1)]]
    assert requested("object:one") == [[Concept(object=1)]]
    assert requested("pair:neon/one+photo/two") == [[Concept(2, 1), Concept(0, 2)]]
    several = [[Concept(2)], [Concept(object=0)], [Concept(1, 2)]]
    assert requested("sequence:neon+zero+crimson/two") == several


@pytest.mark.parametrize(
    "spec, said",
    [
        ("style:neno", "style must be one of photo, crimson, neon, got 'neno'; did you mean 'neon"),
        ("object:neon", "object must be one of zero, one, two, got 'neon'"),
        ("pair:neon", "a pair must be like STYLE/OBJECT, got 'neon'"),
        ("pair:nein/one", "style must be one of .*did you mean 'neon'"),
        ("pair:neon/ome", "object must be one of .*did you mean 'one'"),
        ("sequence:neon+twoo", "style or object must be one of .*did you mean 'two'"),
        ("style:neon+neon", "each concept must be named once"),
        ("styel:neon", "must be one of style:neon.*did you mean 'style'"),
        ("style:", "style must be one of .*got ''"),
        ("class:3", "must be one of style:neon"),
    ],
)
def test_what_is_not_understood_is_said_in_one_line(spec, said):
    with pytest.raises(ValueError, match=said) as error:
        requested(spec)
    assert str(error.value).startswith(f"forget={spec!r}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec, gone",
    [
        ("style:neon", lambda s, o: s == 2),
        ("style:neon+photo", lambda s, o: s in (0, 2)),
        ("object:one", lambda s, o: o == 1),
        ("pair:neon/one", lambda s, o: (s, o) == (2, 1)),
        ("pair:neon/one+crimson/zero", lambda s, o: (s, o) in ((2, 1), (1, 0))),
        ("sequence:neon+one", lambda s, o: s == 2 or o == 1),
    ],
)
def test_rows_of_a_request_are_those_of_its_concepts(grid, spec, gone):
    found = concept_requests.select(spec, grid, grid.train, grid.test)
    of = lambda part: [
        i for i, (s, o) in enumerate(zip(part["style"], part["object"], strict=True)) if gone(s, o)
    ]
    assert found.forget.tolist() == of(grid.train)
    assert found.unseen.tolist() == of(grid.test)
    others = set(range(len(grid.test["style"]))) - set(of(grid.test))
    assert found.test.tolist() == sorted(others)


def test_something_must_be_retained(grid):
    with pytest.raises(ValueError, match=r"forget='style:photo\+crimson\+neon': .*whole training"):
        concept_requests.select("style:photo+crimson+neon", grid, grid.train, grid.test)


def becomes(spec, grid, named=None):
    (concepts,) = requested(spec)
    return concept_requests.anchors(concepts, grid, named)


def test_a_style_becomes_photo_and_an_object_the_next_one(grid):
    assert becomes("style:neon+crimson", grid) == [Concept(0), Concept(0)]
    assert becomes("style:photo", grid) == [Concept(1)]
    assert becomes("style:photo+crimson", grid) == [Concept(2), Concept(2)]
    assert becomes("object:two", grid) == [Concept(object=0)]
    assert becomes("object:zero+one", grid) == [Concept(object=2), Concept(object=2)]
    assert becomes("pair:neon/one", grid) == [Concept(0, 1)]
    assert becomes("pair:photo/one+crimson/one", grid) == [Concept(2, 1), Concept(2, 1)]


def test_an_anchor_may_be_named_and_must_be_of_the_kind(grid):
    assert becomes("style:neon", grid, "crimson") == [Concept(1)]
    assert becomes("object:one+two", grid, "zero") == [Concept(object=0)] * 2
    assert becomes("pair:neon/one", grid, "photo/two") == [Concept(0, 2)]
    with pytest.raises(ValueError, match="anchor must be of the kind .* a style, got 'one', an ob"):
        becomes("style:neon", grid, "one")
    with pytest.raises(ValueError, match="anchor must not be forgotten itself, got 'neon'"):
        becomes("style:neon+photo", grid, "neon")
    with pytest.raises(ValueError, match="anchor 'crimsom': .*did you mean 'crimson'"):
        becomes("style:neon", grid, "crimsom")
    with pytest.raises(ValueError, match="anchor must be one concept, got 'photo.crimson'"):
        becomes("style:neon", grid, "photo+crimson")
    (concepts,) = requested("object:one")
    after = [Concept(object=2), Concept(0)]
    assert concept_requests.anchors(concepts, grid, None, after) == [Concept(object=0)]
    with pytest.raises(ValueError, match="anchor must not be forgotten itself, got 'two'"):
        concept_requests.anchors(concepts, grid, "two", after)
    with pytest.raises(ValueError, match="something of the kind must be retained, an object"):
        becomes("object:zero+one+two", grid)


@pytest.mark.parametrize(
    "concept, before, expected",
    [
        # What is to be forgotten in photo must not be drawn in the place of the other.
        (Concept(2, 1), Concept(0), Concept(1, 1)),
        (Concept(2), Concept(0, 1), Concept(1)),
        (Concept(object=0), Concept(0, 1), Concept(object=2)),
        # Of another object or style it may.
        (Concept(2, 1), Concept(0, 2), Concept(0, 1)),
        (Concept(2), Concept(object=0), Concept(0)),
        (Concept(object=0), Concept(1), Concept(object=1)),
    ],
)
def test_nothing_becomes_a_part_or_the_whole_of_what_was_forgotten_before(
    grid, concept, before, expected
):
    assert concept_requests.anchors([concept], grid, None, [before]) == [expected]


def test_a_named_anchor_is_no_part_of_what_was_forgotten_before(grid):
    for name, concept, before in (("photo/one", Concept(2, 1), 0), ("photo", Concept(2), None)):
        gone = Concept(before) if before is not None else Concept(0, 2)
        with pytest.raises(ValueError, match=f"anchor must not be forgotten itself, got '{name}'"):
            concept_requests.anchors([concept], grid, name, [gone])


@pytest.mark.parametrize(
    "spec, templates, becoming",
    [
        ("style:neon", (0, 1, 3), lambda s, o: ("photo", o)),
        ("object:two", (0, 1, 2), lambda s, o: (s, "zero")),
        ("pair:neon/one", (0, 1), lambda s, o: ("photo", o)),
        ("style:neon+crimson", (0, 1, 3), lambda s, o: ("photo", o)),
    ],
)
def test_the_forget_set_is_told_what_is_forgotten_and_what_it_becomes(
    grid, spec, templates, becoming
):
    """Captions by hand: filled in as text, words marked by what differs from the anchor's."""
    (concepts,) = requested(spec)
    rows = concept_requests.select(spec, grid, grid.train, grid.test).forget
    part = {name: values[rows] for name, values in grid.train.items()}
    anchors = concept_requests.anchors(concepts, grid)
    found = concept_requests.forgetting(part, concepts, anchors, grid)
    assert found["captions"].shape == part["captions"].shape
    for name in ("inputs", "condition", "index"):
        np.testing.assert_array_equal(found[name], part[name])
    for row, (s, o) in enumerate(zip(part["style"], part["object"], strict=True)):
        own, other = (STYLES[s], OBJECTS[o]), becoming(STYLES[s], OBJECTS[o])
        for place, caption in enumerate(found["captions"][row]):
            template = captions.TEMPLATES[templates[place % len(templates)]]
            text = lambda names, template=template: template.format(style=names[0], object=names[1])
            expected = captions.encode(grid.vocabulary, [text(own), text(other)])
            np.testing.assert_array_equal(caption, expected[0])
            np.testing.assert_array_equal(found["anchor.captions"][row, place], expected[1])
            marked = expected[0] != expected[1]
            if "pair" in spec:
                # The object is named, too, though it stays.
                marked |= expected[0] == grid.vocabulary.words.index(own[1])
            np.testing.assert_array_equal(found["concepts"][row, place], marked)
            np.testing.assert_array_equal(found["anchor.concepts"][row, place], marked)
        alone = {"style": "{s} style", "object": "a {o}", "pair": "a {o} image in {s} style"}
        text = alone[spec.partition(":")[0]].format(s=own[0], o=own[1])
        (expected,) = captions.encode(grid.vocabulary, [text])
        np.testing.assert_array_equal(found["alone.condition"][row], expected)
        words = {grid.vocabulary.words.index(name) for name in own}
        is_name = np.isin(expected, list(words))
        np.testing.assert_array_equal(found["alone.concept"][row], is_name)
        for place, caption in enumerate(found["alone.captions"][row]):
            other = "{s} picture of a {o}" if "pair" in spec and place % 2 else None
            again = other.format(s=own[0], o=own[1]) if other else text
            np.testing.assert_array_equal(caption, captions.encode(grid.vocabulary, [again])[0])
            marked = np.isin(caption, list(words))
            np.testing.assert_array_equal(found["alone.concepts"][row, place], marked)
        np.testing.assert_array_equal(found["condition"][row], found["captions"][row, 0])
        np.testing.assert_array_equal(
            found["anchor.condition"][row], found["anchor.captions"][row, 0]
        )
        np.testing.assert_array_equal(found["concept"][row], found["concepts"][row, 0])
        np.testing.assert_array_equal(
            found["anchor.concept"][row], found["anchor.concepts"][row, 0]
        )


def test_an_anchor_of_two_words_is_marked_as_such():
    """And shifts what stands behind it."""
    part = {
        "pixels": np.zeros((4, 4, 4, 3), np.uint8),
        "style": np.array([0, 0, 1, 1]),
        "object": np.array([0, 1, 0, 1]),
        "image": np.arange(4),
    }
    grid = style_grid.grid(part, part, ("photo", "neon"), ("sea lion", "cat"))
    rows = {name: values[[1, 3]] for name, values in grid.train.items()}
    concepts = [Concept(object=1)]
    anchors = concept_requests.anchors(concepts, grid)
    found = concept_requests.forgetting(rows, concepts, anchors, grid)
    assert [np.flatnonzero(own).tolist() for own in found["concept"]] == [[2], [2]]
    assert [np.flatnonzero(own).tolist() for own in found["anchor.concept"]] == [[2, 3], [2, 3]]
    text = captions.decode(grid.vocabulary, found["anchor.condition"])
    assert text == ["a sea lion image in photo style", "a sea lion image in neon style"]


def test_concepts_have_names(grid):
    named = [
        concept_requests.name_of(own, grid)
        for own in (Concept(2), Concept(object=1), Concept(0, 2))
    ]
    assert named == ["neon", "one", "photo/two"]
