"""What is said of answers on a grid: on judgements given by hand, by brute force."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.common import judges as judges_lib
from experiments.common.evaluations import generation as by_class
from experiments.common.evaluations import style_grid as evaluation
from experiments.common.evaluations import style_grid_seen as seen
from experiments.common.evaluations.style_grid_columns import COLUMNS, GAP
from unlearnjax.audit import canvas, generation
from unlearnjax.data import captions, style_grid
from unlearnjax.data.concept_requests import Concept

STYLES, OBJECTS, EACH = ("photo", "crimson", "neon"), ("zero", "one", "two", "three"), 2
SHAPE = len(STYLES), len(OBJECTS)
NEON, ONE = [[Concept(2)]], [[Concept(object=1)]]
SEQUENCE = [[Concept(2)], [Concept(object=1)], [Concept(0, 3)]]


@pytest.fixture(scope="module")
def grid():
    images = np.random.default_rng(0).uniform(size=(12, 4, 4))
    labels = np.arange(12) % 4
    return style_grid.rendered((images[:8], labels[:8]), (images[8:], labels[8:]), OBJECTS, STYLES)


def bench(grid, forget):
    config = ConfigDict({"forget": forget, "evaluate": {"answers": {"per_cell": EACH}}})
    return types.SimpleNamespace(config=config, problem=types.SimpleNamespace(dataset=grid))


def asked(grid, requests):
    return evaluation.answer_set(bench(grid, ""), requests)[1]


def arrays(grid, requests, seed=0, broken=0, after=0):
    """Judgements at random, of everything that is kept of a model."""
    rng = np.random.default_rng(seed)
    labels = asked(grid, requests)
    number = len(labels["style"])
    found = {f"{name}_loss": rng.random(6) for name in evaluation.sets.SETS}
    for label, size in zip(seen.LABELS, SHAPE, strict=True):
        probs = rng.dirichlet(np.ones(size), (2, number))
        found[f"{label}_probs"] = probs
        found[f"seen_{label}"] = probs.argmax(-1).astype(np.uint8)
        for place in range(after):
            found[f"seen_{label}_after{place}"] = rng.integers(0, size, (2, number)).astype(
                np.uint8
            )
    return found | {
        "style": labels["style"].astype(np.uint8),
        "object": labels["object"].astype(np.uint8),
        "held_out": labels["held_out"].astype(np.uint8),
        "images": rng.integers(0, 256, (number, 4, 4, 3), dtype=np.uint8),
        "features": rng.normal(seed / 4, 1, (2, number, 2)),
        "aligned": rng.uniform(size=number).astype(np.float32),
        "broken": np.asarray(broken),
        "leaf_sums": np.array([1, 2, 3], np.uint32),
        "leaf_bytes": np.array([100, 20, 3]),
        "real_cells": np.ones(SHAPE),
    }


@pytest.mark.parametrize(
    "forget, requests, gone", [("style:neon", NEON, 4), ("object:one", ONE, 3)]
)
def test_every_cell_is_asked_for_and_what_is_forgotten_in_other_words_too(
    grid, forget, requests, gone
):
    data, labels = evaluation.answer_set(bench(grid, forget), requests)
    number = EACH * len(STYLES) * len(OBJECTS)
    assert len(data["condition"]) == number + EACH * gone
    np.testing.assert_array_equal(data["index"], np.arange(number + EACH * gone))
    said = captions.decode(grid.vocabulary, data["condition"])
    for row, text in enumerate(said):
        names = {"style": STYLES[labels["style"][row]], "object": OBJECTS[labels["object"][row]]}
        assert labels["held_out"][row] == (row >= number)
        template = captions.HELD_OUT[row % EACH] if row >= number else captions.BENCHMARK
        assert text == template.format(**names)
    plain = list(zip(labels["style"][:number], labels["object"][:number], strict=True))
    assert plain == [(s, o) for s in range(3) for o in range(4) for _ in range(EACH)]
    other = set(zip(labels["style"][number:], labels["object"][number:], strict=True))
    assert other == ({(2, o) for o in range(4)} if gone == 4 else {(s, 1) for s in range(3)})


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def rows_of(own, judge):
    names = own["seen_style"][judge], own["seen_object"][judge], own["style"], own["object"]
    return list(zip(*(x.tolist() for x in (*names, own["held_out"])), strict=True))


@pytest.mark.parametrize("seed", range(2))
def test_what_is_seen_is_the_mean_over_judges_by_brute_force(grid, seed):
    own = arrays(grid, NEON, seed)
    row = seen.seen_in(own, NEON)
    of = lambda number: mean(number(rows_of(own, judge)) for judge in (0, 1))
    expected = {
        "unlearning_accuracy": of(
            lambda r: mean(a != 2 for a, b, s, o, h in r if s == 2 and not h)
        ),
        "unlearning_accuracy_paraphrased": of(lambda r: mean(a != 2 for a, b, s, o, h in r if h)),
        "in_domain": of(lambda r: mean(a == s for a, b, s, o, h in r if s != 2)),
        "cross_domain": of(lambda r: mean(b == o for a, b, s, o, h in r if s != 2)),
        "cross_domain_target": of(
            lambda r: mean(b == o for a, b, s, o, h in r if s == 2 and not h)
        ),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value), name
    one, other = rows_of(own, 0), rows_of(own, 1)
    assert row["judges_agree"] == mean(x[:2] == y[:2] for x, y in zip(one, other, strict=True))
    assert np.isnan(row["style_kept"]) and np.isnan(row["rebound"])


def test_a_sequence_comes_back_by_what_the_last_model_has_lost(grid):
    own = arrays(grid, SEQUENCE, seed=3, after=2)
    plain = ~own["held_out"].astype(bool)
    by_judge = []
    for judge in (0, 1):
        models = [
            [own[f"seen_{label}{end}"][judge, plain] for end in ("_after0", "_after1", "")]
            for label in seen.LABELS
        ]
        labels = own["style"][plain], own["object"][plain]
        by_judge.append(canvas.sequence(*map(np.stack, models), *labels, SEQUENCE))
    triangle, retained = seen.sequence(own, SEQUENCE)
    np.testing.assert_allclose(triangle, np.mean([own[0] for own in by_judge], axis=0))
    np.testing.assert_allclose(retained, np.mean([own[1] for own in by_judge], axis=0))
    row = seen.seen_in(own, SEQUENCE)
    lost = [triangle[0, 0] - triangle[2, 0], triangle[1, 1] - triangle[2, 1]]
    assert row["rebound"] == pytest.approx(np.mean(lost))
    assert row["unlearning_accuracy"] == pytest.approx(triangle[2].mean())
    assert row["retained_accuracy"] == pytest.approx(retained[2])
    assert np.isnan(row["in_domain"])
    without = {name: value for name, value in own.items() if "after" not in name}
    assert np.isnan(seen.seen_in(without, SEQUENCE)["rebound"])  # of an oracle, or the original


@pytest.mark.parametrize(
    "requests, mass",
    [
        (NEON, lambda s, o: s[2]),
        (ONE, lambda s, o: o[1]),
        ([[Concept(2, 1), Concept(0, 3)]], lambda s, o: s[2] * o[1] + s[0] * o[3]),
        (SEQUENCE, lambda s, o: s[2] + (1 - s[2]) * o[1] + s[0] * o[3]),
    ],
)
def test_probabilities_are_of_the_label_that_is_forgotten(grid, requests, mass):
    own = arrays(grid, requests, seed=4)
    gone = np.flatnonzero(seen.forgotten(own, requests))
    found = seen.surprise(own, requests)
    p, entropy = [], []
    for judge in (0, 1):
        for row in gone:
            s, o = own["style_probs"][judge, row], own["object_probs"][judge, row]
            p.append(mass(s, o))
            parts = {"style": -(s * np.log(s)).sum(), "object": -(o * np.log(o)).sum()}
            labels = ["style"] if requests == NEON else ["object"] if requests == ONE else parts
            entropy.append(sum(parts[label] for label in labels))
    assert found["p_forgotten"] == pytest.approx(np.mean(p))
    assert found["entropy"] == pytest.approx(np.mean(entropy))


@pytest.mark.parametrize("requests", [NEON, ONE, [[Concept(2, 1)]]])
def test_distance_to_an_oracle_is_of_labels_and_of_what_is_kept(grid, requests):
    oracle, own = arrays(grid, requests, 1), arrays(grid, requests, 2)
    found = seen.apart(oracle, own, requests)
    gone, kept = seen.forgotten(own, requests), seen.kept(own, requests)
    assert (gone | kept).sum() == 24 and not (gone & kept).any()

    def labels(model, judge):
        s, o = (model[f"seen_{label}"][judge, gone].tolist() for label in seen.LABELS)
        pairs = list(zip(s, o, strict=True))
        return s if requests == NEON else o if requests == ONE else pairs

    varied = []
    for judge in (0, 1):
        one, other = labels(oracle, judge), labels(own, judge)
        every = set(one) | set(other)
        varied.append(sum(abs(one.count(x) - other.count(x)) for x in every) / (2 * len(one)))
    assert found["total_variation"] == pytest.approx(np.mean(varied))
    fd = [
        generation.frechet_distance(oracle["features"][judge, kept], own["features"][judge, kept])
        for judge in (0, 1)
    ]
    assert found["fd_oracle"] == pytest.approx(np.mean(fd))


def test_distances_are_between_as_many_images():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 9, 2)), rng.normal(1, 1, size=(2, 5, 2))
    rows = by_class.some(np.arange(9), 5)
    kd = [generation.kernel_distance(one[judge, rows], other[judge]) for judge in (0, 1)]
    assert seen.distances(one, other)["kd"] == pytest.approx(np.mean(kd))


def test_what_is_stored_are_the_parameters_that_differ(grid):
    original = arrays(grid, NEON)
    edited = {**original, "leaf_sums": np.array([1, 7, 8], np.uint32)}
    assert seen.stored(original, edited) == 23.0 and seen.stored(original, original) == 0.0
    larger = {"leaf_sums": np.zeros(4, np.uint32), "leaf_bytes": np.full(4, 5)}
    assert seen.stored(original, larger) == 20.0 and seen.stored(None, edited) == 123.0


@pytest.fixture
def context(grid):
    real = np.random.default_rng(9).normal(size=(2, 12, 2))
    floor = {"fd": 0.25, "kd": 0.5, "clip_pair": 0.75}
    judges = {"least_style": 0.9, "least_object": 0.8}
    config = ConfigDict({"evaluate": {"judges": judges}})
    own = types.SimpleNamespace(config=config)
    labels = asked(grid, NEON)
    return evaluation.Context(own, {}, {}, labels, NEON, None, real, np.ones(SHAPE), floor)


def test_numbers_are_all_defined_and_of_what_is_no_image_nothing_is_said(grid, context):
    own = arrays(grid, NEON, 5)
    row = evaluation.numbers(context, own, seed=0)
    kept, gone = seen.kept(own, NEON), seen.forgotten(own, NEON)
    assert row["fd"] == seen.distances(context.real, own["features"][:, kept])["fd"]
    assert row["clip_pair"] == pytest.approx(own["aligned"][kept].mean())
    assert row["clip_pair_forgotten"] == pytest.approx(own["aligned"][gone].mean())
    assert (row["fd_floor"], row["clip_pair_floor"]) == (0.25, 0.75)
    assert row["forget_loss"] == pytest.approx(own["forget_loss"].mean())
    known = {*COLUMNS.definitions, "mia_loss"}
    assert not {name for name in row if name not in known}, set(row) - known
    broken = evaluation.numbers(context, {**own, "broken": np.asarray(1)}, seed=0)
    assert np.isnan([broken[k] for k in ("unlearning_accuracy", "fd", "clip_pair")]).all()
    assert broken["forget_loss"] == row["forget_loss"] and broken["fd_floor"] == 0.25
    silent = {name: value for name, value in own.items() if name != "aligned"}
    assert np.isnan(evaluation.numbers(context, silent, seed=0)["clip_pair"])


def test_rows_are_held_against_oracles_and_the_original_of_their_seed(grid, context):
    made = [arrays(grid, NEON, seed) for seed in (0, 1, 2, 3)]
    made[3] = {**made[3], "leaf_sums": np.array([1, 2, 9], np.uint32)}
    labels = [("original", 0), ("oracle", 0), ("oracle", 1), ("erased", 0)]
    rows = [
        {"method": m, "seed": s, **evaluation.numbers(context, own, 0)}
        for (m, s), own in zip(labels, made, strict=True)
    ]
    rows[3]["memory_bytes"] = 1000.0
    found = evaluation.against_oracles(context, rows, made)
    ideal = {k: (rows[1][k] + rows[2][k]) / 2 for k in GAP}
    usable = [k for k in GAP if not np.isnan(ideal[k])]
    assert len(usable) == 5
    gap = np.mean([abs(rows[3][k] - ideal[k]) for k in usable])
    assert found[3]["average_gap"] == pytest.approx(gap)
    apart = [seen.apart(made[j], made[3], NEON)["total_variation"] for j in (1, 2)]
    assert found[3]["total_variation"] == pytest.approx(np.mean(apart))
    # An oracle is held against the other one.
    other = seen.apart(made[2], made[1], NEON)["fd_oracle"]
    assert found[1]["fd_oracle"] == pytest.approx(other)
    assert found[3]["stored_bytes"] == 1003.0 and found[0]["stored_bytes"] == 0.0
    assert found[2]["stored_bytes"] == 123.0  # of no original of its seed
    alone = evaluation.against_oracles(context, [rows[0], rows[3]], [made[0], made[3]])
    assert np.isnan([alone[1]["average_gap"], alone[1]["total_variation"]]).all()
    assert alone[1]["stored_bytes"] == 1003.0
    whole = {**made[3], "broken": np.asarray(2)}
    nothing = evaluation.against_oracles(context, rows, [*made[:3], whole])
    assert np.isnan(nothing[3]["fd_oracle"])


def test_nothing_is_erased_where_judges_do_not_recognise_what_originals_draw(grid, context, capsys):
    good = arrays(grid, NEON)
    for label in seen.LABELS:
        good[f"seen_{label}"] = np.stack([good[label], good[label]])
    evaluation.approve(context, [good])
    said = capsys.readouterr().out
    assert "100.0 %, 100.0 % of the styles of the originals' samples" in said
    assert "of the objects of" in said
    wrong = {**good, "seen_object": good["seen_object"].copy()}
    wrong["seen_object"][1, :10] = 9
    with pytest.raises(ValueError, match="judges must be right on 80 % of the objects of the orig"):
        evaluation.approve(context, [good, wrong, wrong])
    # 90 % of styles must be right, of each judge.
    wrong = {**good, "seen_style": good["seen_style"].copy()}
    wrong["seen_style"][0, :5] = 9
    with pytest.raises(ValueError, match="judges must be right on 90 % of the styles"):
        evaluation.approve(context, [wrong])
    with pytest.raises(ValueError, match="3 of the originals' samples are not finite"):
        evaluation.approve(context, [{**good, "broken": np.asarray(3)}])


@pytest.mark.parametrize("forget", ["style:neon", "sequence:neon+one+photo/three"])
def test_figures_show_the_answers_of_every_model(grid, forget, monkeypatch):
    monkeypatch.setattr(evaluation.sets, "figures", lambda *_, **__: {"losses": ("", None)})
    of = bench(grid, forget)
    requests = NEON if forget.startswith("style") else SEQUENCE
    made = {
        "original": [arrays(grid, requests, 0)],
        "oracle": [arrays(grid, requests, 1)],
        "erased": [arrays(grid, requests, s, after=len(requests) - 1) for s in (2, 3)],
    }
    found = evaluation.figures(of, [], made)
    names = {"answers", "style_seen", "object_seen", "frontier", "losses"}
    assert set(found) == names | ({"sequence"} if len(requests) > 1 else set())
    panels = found["answers"][1].axes
    assert [ax.get_title() for ax in panels[:3]] == ["original", "oracle", "erased"]
    sheet = np.asarray(panels[2].images[0].get_array())
    first = made["erased"][0]["images"][:24].reshape(3, 4, EACH, 4, 4, 3)[:, :, 0]
    np.testing.assert_array_equal(sheet[4:8, 8:12], first[1, 2])
    heat = np.asarray(found["style_seen"][1].axes[3].images[0].get_array())
    right = [(own["seen_style"] == own["style"])[:, :24].mean(0) for own in made["erased"]]
    expected = np.mean(right, axis=0).reshape(3, 4, EACH).mean(-1)
    np.testing.assert_allclose(heat, expected)
    table = evaluation.examples(of, made)
    if len(requests) == 1:
        assert table == {}
    else:
        ((_, columns),) = table.items()
        cells = dict(columns)
        assert cells["method"] == ["erased"] * 3
        assert cells["after"] == ["neon", "one", "photo/three"]
        trails = [seen.sequence(own, requests) for own in made["erased"]]
        triangle, retained = (np.mean(own, axis=0) for own in zip(*trails, strict=True))
        assert cells["UA of one"] == ["–", *(f"{100 * x:.1f}" for x in triangle[1:, 1])]
        assert cells["retained"] == [f"{100 * x:.1f}" for x in retained]
    alone = {name: own for name, own in made.items() if name != "oracle"}
    assert "losses" not in evaluation.figures(of, [], alone)


def test_labels_are_kept_in_bytes():
    assert evaluation._small(np.array([0, 255])).dtype == np.uint8
    assert evaluation._small(np.array([True, False])).tolist() == [1, 0]
    assert evaluation._small(np.arange(300)).dtype == np.uint16
    assert judges_lib.names("style_judge") == ("style_judge0", "style_judge1")
    assert evaluation.EVALUATION.stages == (
        "style_judge0", "style_judge1", "object_judge0", "object_judge1",
    )  # fmt: skip
