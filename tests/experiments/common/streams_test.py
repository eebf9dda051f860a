"""Which rows every request of a stream is about, counted in NumPy."""

import numpy as np
import pytest

from experiments.common import streams

TARGETS = np.random.default_rng(1).permutation(np.repeat([2, 5, 7, 11, 13], 60))


def replayed(name, seed=0):
    """Every event with the rows that are known before it."""
    known = np.zeros(len(TARGETS), bool)
    for event in streams.STREAMS[name](TARGETS, np.random.default_rng(seed)):
        yield event, known.copy()
        known[event.rows] = event.kind == "learn"


def test_half_of_the_classes_come_at_once_and_then_one_by_one_and_go():
    events = list(replayed("class_incremental"))
    assert [(event.kind, event.name) for event, _ in events] == [
        ("learn", "base classes"),
        *(("learn", f"class {c}") for c in (7, 11, 13)),
        *(("forget", f"samples {number}") for number in range(3)),
        ("forget", "half of class 13"),
        ("forget", "class 2"),
        ("forget", "class 11"),
    ]
    for (event, _), classes in zip(events[:4], ([2, 5], [7], [11], [13]), strict=True):
        np.testing.assert_array_equal(event.rows, np.flatnonzero(np.isin(TARGETS, classes)))
    for event, known in events[4:7]:  # a fiftieth of all
        assert len(event.rows) == 6 and known[event.rows].all() and (np.diff(event.rows) > 0).all()
    for (event, known), c, share in zip(events[7:], (13, 2, 11), (0.5, 1, 1), strict=True):
        there = np.flatnonzero(known & (TARGETS == c))
        assert len(event.rows) == round(share * len(there)) and (np.diff(event.rows) > 0).all()
        assert np.isin(event.rows, there).all()
    assert any(len(known) - known.sum() for _, known in events[7:])
    other = [event.rows.tolist() for event, _ in replayed("class_incremental", seed=1)]
    assert other[4] != events[4][0].rows.tolist()


def test_a_twentieth_of_what_is_known_goes_after_every_class():
    for number, (event, known) in enumerate(replayed("interleaved")):
        c = [2, 5, 7, 11, 13][number // 2]
        if number % 2 == 0:
            assert (event.kind, event.name) == ("learn", f"class {c}")
            np.testing.assert_array_equal(event.rows, np.flatnonzero(TARGETS == c))
        else:
            assert (event.kind, event.name) == ("forget", f"samples after class {c}")
            assert len(event.rows) == known.sum() // 20 and known[event.rows].all()
            assert (np.diff(event.rows) > 0).all()
    assert number == 9


@pytest.mark.parametrize("count", [60, 4])
def test_examples_of_the_last_class_go_one_by_one(count):
    options = {} if count == 60 else {"count": count}
    first, *rest = streams.adversarial(TARGETS, np.random.default_rng(0), **options)
    assert first.kind == "learn" and first.rows.tolist() == list(range(300))
    gone = [int(event.rows.item()) for event in rest]
    assert [event.name for event in rest] == [f"example {row}" for row in gone]
    assert {event.kind for event in rest} == {"forget"} and len(set(gone)) == count
    assert (TARGETS[gone] == 13).all() and gone != sorted(gone)


def test_two_classes_are_too_few_for_half_of_them_and_more():
    three = streams.class_incremental(np.repeat([0, 1, 2], 50), np.random.default_rng(0))
    assert three[0].rows.tolist() == list(range(50))
    with pytest.raises(ValueError, match="takes three classes or more, got 2"):
        streams.class_incremental(np.repeat([0, 1], 50), np.random.default_rng(0))
