import numpy as np
import pytest

from unlearnjax.audit import canvas
from unlearnjax.data.concept_requests import Concept

NUM_STYLES, NUM_OBJECTS, EACH = 4, 5, 3
STYLE = np.repeat(np.arange(NUM_STYLES), NUM_OBJECTS * EACH)
OBJECT = np.tile(np.repeat(np.arange(NUM_OBJECTS), EACH), NUM_STYLES)
NOT_OF_STYLES = ("style_kept", "object_kept", "others_kept")
NOT_OF_PAIRS = ("in_domain", "cross_domain", "cross_domain_target")


def seen(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, NUM_STYLES, len(STYLE)), rng.integers(0, NUM_OBJECTS, len(STYLE))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("targets", [(2,), (0, 3)])
def test_styles_and_objects_by_brute_force(seed, targets):
    s_seen, o_seen = seen(seed)
    rows = list(zip(s_seen, o_seen, STYLE, OBJECT, strict=True))
    of_style = canvas.judged(s_seen, o_seen, STYLE, OBJECT, [Concept(style=t) for t in targets])
    expected = {
        "unlearning_accuracy": mean(a not in targets for a, b, s, o in rows if s in targets),
        "in_domain": mean(a == s for a, b, s, o in rows if s not in targets),
        "cross_domain": mean(b == o for a, b, s, o in rows if s not in targets),
        "cross_domain_target": mean(b == o for a, b, s, o in rows if s in targets),
    }
    expected["retained_accuracy"] = (expected["in_domain"] + expected["cross_domain"]) / 2
    assert of_style == pytest.approx(expected | dict.fromkeys(NOT_OF_STYLES, np.nan), nan_ok=True)
    of_object = canvas.judged(s_seen, o_seen, STYLE, OBJECT, [Concept(object=t) for t in targets])
    expected = {
        "unlearning_accuracy": mean(b not in targets for a, b, s, o in rows if o in targets),
        "in_domain": mean(b == o for a, b, s, o in rows if o not in targets),
        "cross_domain": mean(a == s for a, b, s, o in rows if o not in targets),
        "cross_domain_target": mean(a == s for a, b, s, o in rows if o in targets),
    }
    expected["retained_accuracy"] = (expected["in_domain"] + expected["cross_domain"]) / 2
    assert of_object == pytest.approx(expected | dict.fromkeys(NOT_OF_STYLES, np.nan), nan_ok=True)


@pytest.mark.parametrize("pairs", [((1, 2),), ((1, 2), (3, 0))])
def test_pairs_by_brute_force(pairs):
    s_seen, o_seen = seen(5)
    rows = list(zip(s_seen, o_seen, STYLE, OBJECT, strict=True))
    found = canvas.judged(s_seen, o_seen, STYLE, OBJECT, [Concept(*pair) for pair in pairs])
    styles, objects = zip(*pairs, strict=True)
    gone = lambda s, o: (s, o) in pairs
    rest = [row for row in rows if not gone(row[2], row[3])]
    expected = {
        "unlearning_accuracy": mean(not gone(a, b) for a, b, s, o in rows if gone(s, o)),
        "style_kept": mean(a == s for a, b, s, o in rest if s in styles),
        "object_kept": mean(b == o for a, b, s, o in rest if o in objects),
        "others_kept": mean(
            (a, b) == (s, o) for a, b, s, o in rest if s not in styles and o not in objects
        ),
        "retained_accuracy": mean((int(a == s) + int(b == o)) / 2 for a, b, s, o in rest),
    }
    assert found == pytest.approx(expected | dict.fromkeys(NOT_OF_PAIRS, np.nan), nan_ok=True)


@pytest.mark.parametrize("concept", [Concept(1), Concept(object=1), Concept(1, 1)])
def test_perfect_models_score_as_they_must(concept):
    """One that forgot nothing, and one that draws the anchor for all that was forgotten."""
    untouched = canvas.judged(STYLE, OBJECT, STYLE, OBJECT, [concept])
    given = lambda found: {k: v for k, v in found.items() if not np.isnan(v)}
    kept = dict.fromkeys(given(untouched), 1.0)
    assert given(untouched) == kept | {"unlearning_accuracy": 0.0}
    gone = np.array(
        [
            concept in (Concept(s), Concept(object=o), Concept(s, o))
            for s, o in zip(STYLE, OBJECT, strict=True)
        ]
    )
    style = np.where(gone & (concept.style is not None), 0, STYLE)
    content = np.where(gone & (concept.style is None), 2, OBJECT)
    assert given(canvas.judged(style, content, STYLE, OBJECT, [concept])) == kept


def test_a_sequence_is_a_triangle_of_unlearning_accuracies():
    requests = [[Concept(3)], [Concept(object=0)], [Concept(1, 2), Concept(2, 2)]]
    judgements = [seen(seed) for seed in range(3)]
    s_seen, o_seen = (np.stack(own) for own in zip(*judgements, strict=True))
    triangle, retained = canvas.sequence(s_seen, o_seen, STYLE, OBJECT, requests)
    never = [(s, o) for s in range(3) for o in range(1, 5) if (s, o) not in ((1, 2), (2, 2))]
    for after, (own_style, own_object) in enumerate(judgements):
        rows = list(zip(own_style, own_object, STYLE, OBJECT, strict=True))
        expected = [
            mean(a != 3 for a, b, s, o in rows if s == 3),
            mean(b != 0 for a, b, s, o in rows if o == 0),
            mean(
                (a, b) not in ((1, 2), (2, 2)) for a, b, s, o in rows if (s, o) in ((1, 2), (2, 2))
            ),
        ]
        np.testing.assert_allclose(triangle[after, : after + 1], expected[: after + 1])
        assert np.isnan(triangle[after, after + 1 :]).all()
        share = mean((int(a == s) + int(b == o)) / 2 for a, b, s, o in rows if (s, o) in never)
        assert retained[after] == pytest.approx(share)
    with pytest.raises(ValueError, match=r"must be \[K, N\] of the 3 requests, got \(60,\)"):
        canvas.sequence(s_seen[0], o_seen[0], STYLE, OBJECT, requests)
    with pytest.raises(ValueError, match="of the 2 requests"):
        canvas.sequence(s_seen, o_seen, STYLE, OBJECT, requests[:2])


def test_means_of_cells_of_a_balanced_grid_have_the_mean_of_all():
    s_seen, _ = seen(7)
    right = s_seen == STYLE
    found = canvas.cells(right, STYLE, OBJECT, (NUM_STYLES, NUM_OBJECTS))
    assert found.mean() == pytest.approx(right.mean())
    for s in range(NUM_STYLES):
        for o in range(NUM_OBJECTS):
            assert found[s, o] == right[(STYLE == s) & (OBJECT == o)].mean()
    few = canvas.cells(right[:4], STYLE[:4], OBJECT[:4], (NUM_STYLES, NUM_OBJECTS))
    assert np.isnan(few).sum() == NUM_STYLES * NUM_OBJECTS - 2
    with pytest.raises(
        ValueError, match=r"labels within \(4, 4\), got \(60,\) and labels up to 3, 4"
    ):
        canvas.cells(right, STYLE, OBJECT, (NUM_STYLES, 4))
    with pytest.raises(ValueError, match=r"values must be \[N\]"):
        canvas.cells(right[:3], STYLE, OBJECT, (NUM_STYLES, NUM_OBJECTS))


def test_bytes_are_compared_as_numbers_and_what_is_no_label_is_refused():
    s_seen, o_seen = seen(1)
    of = lambda *arrays: canvas.judged(*arrays, [Concept(0)])
    wide = of(s_seen, o_seen, STYLE, OBJECT)
    narrow = of(*(own.astype(np.uint8) for own in (s_seen, o_seen, STYLE, OBJECT)))
    assert narrow == pytest.approx(wide, nan_ok=True)
    with pytest.raises(ValueError, match=r"must be \[N\] whole numbers, got float64 \[60\]"):
        of(s_seen.astype(float), o_seen, STYLE, OBJECT)
    with pytest.raises(ValueError, match=r"must be \[N\] whole numbers"):
        of(s_seen[:3], o_seen, STYLE, OBJECT)
    for nothing in ([], [Concept()]):
        with pytest.raises(ValueError, match="forgotten must be concepts with a style or an obj"):
            canvas.judged(s_seen, o_seen, STYLE, OBJECT, nothing)
    none = canvas.judged(s_seen[:3], o_seen[:3], STYLE[:3], OBJECT[:3], [Concept(3)])
    assert np.isnan(none["unlearning_accuracy"]) and np.isfinite(none["in_domain"])


def test_every_number_is_defined():
    assert set(canvas.judged(*seen(0), STYLE, OBJECT, [Concept(0)])) == set(canvas.DEFINITIONS)
