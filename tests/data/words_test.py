import pytest

from unlearnjax.data import words

TEXTS = ["The cat, the dog!", "a dog isn't a cat", "the end"]


def test_words_are_split_from_marks():
    assert words.split("Café-au-lait's 2 $3.5") == (
        ["café", "-", "au", "-", "lait's", "2", "$", "3", ".", "5"]
    )
    assert words.split("  ") == []


def test_the_commonest_words_are_known_after_those_required():
    known = words.vocabulary(TEXTS, size=9, required=["cf", "end"])
    assert known == {"cf": 2, "end": 3, "the": 4, "a": 5, "cat": 6, "dog": 7, "!": 8}
    assert len(words.vocabulary(TEXTS)) == 8  # all there are


def test_sentences_are_cut_and_filled_up():
    known = words.vocabulary(TEXTS)
    rows = words.encoded(["the dog barks", "", "the the the the the"], known, 4)
    the, dog = known["the"], known["dog"]
    assert rows.tolist() == [[the, dog, 1, 0], [0, 0, 0, 0], [the] * 4]
    assert str(rows.dtype) == "int32"


def test_bad_arguments_are_named():
    for make, message in (
        (lambda: words.vocabulary(TEXTS, 4, ["a", "b"]), "size must be >= 5, got 4"),
        (lambda: words.vocabulary(TEXTS, 9, ["two words"]), "required must be words in lower case"),
        (lambda: words.vocabulary(TEXTS, 9, ["Upper"]), "required must be words in lower case"),
        (lambda: words.vocabulary("a text"), "texts must be several names"),
        (lambda: words.encoded(TEXTS, {}, 0), "length must be >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
