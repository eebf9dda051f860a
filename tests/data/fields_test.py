import numpy as np
import pytest

from unlearnjax.data import fields

NUMBERS = [np.bool_, np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, np.float64]


def positions(values, *texts):
    return fields.rows(fields.of(values), texts).tolist()


@pytest.mark.parametrize("dtype", NUMBERS)
def test_what_a_number_prints_as_names_it_and_nothing_else(dtype):
    values = np.array([0, 1, 0], dtype)
    for text in {str(values[0]), "0"}:
        assert positions(values, text) == [0, 2]
    for text in {str(values[1]), "1"}:
        assert positions(values, text) == [1]
    for text in ("2", "-1", "256", "65536", "0.5", "1e400", "9" * 30, "x", "", "nan", "inf"):
        assert positions(values, text) == []


def test_false_does_not_name_the_true():
    values = np.array([True, False, True])
    assert positions(values, "False") == positions(values, "false") == [1]
    assert positions(values, "True") == [0, 2]
    assert positions(values, "no") == []


@pytest.mark.parametrize(
    "values",
    [
        np.array(["ann", "bob", "ann"]),
        np.array([b"ann", b"bob", b"ann"]),
        np.array(["ann", 7, b"ann"], object),
        np.array(["ann", "bo", "ann"], np.dtypes.StringDType()),
    ],
    ids=["str", "bytes", "object", "any length"],
)
def test_text_is_neither_cut_nor_filled_up(values):
    assert positions(values, "ann") == [0, 2]
    for text in ("anna", "an", "Ann", "ann ", ""):
        assert positions(values, text) == []


def test_integers_are_exact_to_the_last_digit():
    values = np.array([2**53, 2**53 + 1, 2**62])
    assert positions(values, str(2**53 + 1)) == [1]
    assert positions(values, str(2**62 + 1)) == []
    assert positions(values, "9007199254740993.0") == [1]  # a number that float64 does not have
    unsigned = np.array([2**64 - 1, 2**63], np.uint64)
    assert positions(unsigned, str(2**64 - 1)) == [0]
    assert positions(unsigned, str(2**64), str(-1)) == []
    assert positions(np.array([-(2**63)]), str(-(2**63))) == [0]
    assert positions(np.array([-(2**63)]), str(-(2**63) - 1)) == []


def test_a_float_is_what_it_prints_as():
    third = np.float32(1 / 3)
    for dtype in (np.float16, np.float32, np.float64):
        values = np.array([0.1, 0.25, np.nan, -np.inf, 1e4], dtype)
        assert positions(values, "0.1") == positions(values, "0.100") == [0]
        assert positions(values, "nan") == positions(values, "NaN") == [2]
        assert positions(values, "-inf") == [3]
        assert positions(values, "10000", "1e4") == [4]
        assert positions(values, "0.10000001") == []
    for text in (str(third), repr(float(third)), f"{float(third):.60f}"):
        assert positions(np.array([third]), text) == [0]
    assert positions(np.array([third]), "0.333333") == []
    # Python's own reading of the text would be rounded to a value that is there.
    assert positions(np.array([16777216.0], np.float32), "16777217") == []


def test_other_types_go_by_what_they_print_as():
    days = np.array(["2020-01-02", "NaT"], "datetime64[D]")
    assert positions(days, "2020-01-02") == [0] and positions(days, "NaT") == [1]
    assert positions(np.array([None, 0.5], object), "None") == [0]
    assert positions(np.array([1.5], np.longdouble), "1.5") == [0]
    with pytest.raises(ValueError, match=r"one value per example, got shape \(2, 1\)"):
        fields.of(np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (["ann", "bob", "c++"], "bob", ["bob"]),
        (["ann", "bob", "c++"], "c+++ann", ["c++", "ann"]),
        (["a+b", "c"], "c+a+b+c", ["c", "a+b", "c"]),
        (["", "a"], "a+", ["a", ""]),
        ([1e20, 1.0], "1e+20+1", ["1e+20", "1"]),
        ([3, 4], "4+3", ["4", "3"]),
    ],
)
def test_values_may_contain_what_separates_them(values, text, expected):
    assert fields.split(fields.of(np.array(values)), text) == expected


def test_what_can_be_read_in_two_ways_is_refused():
    field = fields.of(np.array(["a", "b", "a+b", "c"]))
    with pytest.raises(
        ValueError, match=r"'c\+a\+b' may mean \['c', 'a\+b'\] or \['c', 'a', 'b'\]"
    ):
        fields.split(field, "c+a+b")


def test_what_is_missing_is_named_with_the_nearest_values_first():
    people = fields.of(np.array(["zoe", "bob", "ann", "anton"]))
    with pytest.raises(ValueError, match=r"one of \['ann', 'anton', .*\], got 'anna'"):
        fields.split(people, "zoe+anna+bob")
    numbers = fields.of(np.arange(100, dtype=np.float32) / 10)
    message = fields.missing(numbers, "4.14")
    assert "must be one of [4.1, 4.2, 4.0, 4.3, " in message
    assert message.endswith("... (100 in all)], got '4.14'")
    assert message.count("4.") + message.count("3.") - 1 == fields.SHOWN == 10
    assert "[0, 1]," in fields.missing(fields.of(np.array([1, 0])), "x")
    assert "[False, True]," in fields.missing(fields.of(np.array([True, False])), "no")
    assert "[inf, nan]" in fields.missing(fields.of(np.array([np.nan, np.inf])), "inf")


def test_shared_values_are_those_of_both():
    field, other = (fields.of(np.array(v)) for v in ([1, 2**53, 5, 1], [2**53 + 1, 5, 1]))
    assert fields.shared(field, other).tolist() == [True, False, True, True]
    unsigned = fields.of(np.array([2**63, 1], np.uint64))
    assert fields.shared(unsigned, field).tolist() == [False, True]
    missing = fields.of(np.array([np.nan, 1.0]))
    assert fields.shared(missing, missing).all()
    with pytest.raises(ValueError, match="must be numbers or text, got"):
        fields.shared(field, fields.of(np.array(["1"])))
