"""Which rows every request of a stream is about, counted in NumPy."""

import numpy as np
import pytest

from experiments.common import streams

TARGETS = np.random.default_rng(1).permutation(np.repeat([2, 5, 7, 11, 13], 300))


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
        assert len(event.rows) == 30 and known[event.rows].all() and (np.diff(event.rows) > 0).all()
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
    assert first.kind == "learn" and first.rows.tolist() == list(range(1500))
    gone = [int(event.rows.item()) for event in rest]
    assert [event.name for event in rest] == [f"example {row}" for row in gone]
    assert {event.kind for event in rest} == {"forget"} and len(set(gone)) == count
    assert (TARGETS[gone] == 13).all() and gone != sorted(gone)


def test_two_classes_are_too_few_for_half_of_them_and_more():
    three = streams.class_incremental(np.repeat([0, 1, 2], 50), np.random.default_rng(0))
    assert three[0].rows.tolist() == list(range(50))
    with pytest.raises(ValueError, match="takes three classes or more, got 2"):
        streams.class_incremental(np.repeat([0, 1], 50), np.random.default_rng(0))


@pytest.mark.parametrize("name", streams.STREAMS)
def test_streams_forget_only_what_is_there_and_learn_only_what_is_not(digits, name):
    targets = digits["targets"]
    left = np.zeros(len(targets), bool)
    kinds = set()
    for event in streams.STREAMS[name](targets, np.random.default_rng(0)):
        assert len(event.rows) == len(set(event.rows.tolist())) > 0
        assert (left[event.rows] == (event.kind == "forget")).all(), event.name
        left[event.rows] = event.kind == "learn"
        kinds.add(event.kind)
    assert kinds == {"learn", "forget"} and left.any()


@pytest.mark.parametrize(
    ("name", "classes", "each"),
    [
        ("class_incremental", 2, 40),  # half of them, and two others, go
        ("class_incremental", 3, 4),  # a fiftieth is none
        ("interleaved", 3, 19),  # a twentieth is none
        ("adversarial", 1, 60),  # all go
    ],
)
def test_streams_of_too_few_examples_are_refused(name, classes, each):
    def made(classes, each):
        targets = np.repeat(np.arange(classes), each)
        events = streams.STREAMS[name](targets, np.random.default_rng(0))
        streams.validate(name, events, len(targets))

    made(3, 61)
    with pytest.raises(ValueError, match=f"stream {name} takes"):
        made(classes, each)


def test_requests_about_nothing_and_those_that_leave_nothing_are_named():
    learn, forget = (streams.Event(kind, np.arange(3), kind) for kind in ("learn", "forget"))
    streams.validate("s", [learn, forget._replace(rows=np.arange(2))], 3)
    with pytest.raises(ValueError, match="than 3: its request 'forget' leaves none"):
        streams.validate("s", [learn, forget], 3)
    with pytest.raises(ValueError, match="its request 'forget' is about no example"):
        streams.validate("s", [learn, forget._replace(rows=np.arange(0))], 3)
