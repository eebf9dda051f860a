import functools
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from unlearnjax import models, tasks, training
from unlearnjax.data import load, text_attacks, vader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files in the published form, a few lines each."""
    folder = tmp_path_factory.mktemp("vader")
    for name, file in vader.FILES.items():
        lines = []
        for number in range(1, 13):
            own = f"{number}_1" if name in ("product", "editorial") else str(number)
            rating = [2.5, -1.5, 1.0, -1.0, 0.3, 1.1][number % 6]
            lines.append(f"{own}\t{rating}\tA {name} caf\u00e9 number {number}.")
        (folder / file).write_bytes("\r\n".join(lines).encode())
    return folder


def test_polarity_is_of_films_that_are_rated_beyond_1(folder):
    dataset, known = vader.load(folder, required=["cf"])
    ratings = {1: -1.5, 5: 1.1, 6: 2.5, 7: -1.5, 11: 1.1, 12: 2.5}  # by number
    train, test = [n for n in ratings if n % 5], [n for n in ratings if n % 5 == 0]
    for part, numbers in ((dataset.train, train), (dataset.test, test)):
        np.testing.assert_allclose(part["rating"], [ratings[n] for n in numbers])
        assert part["targets"].tolist() == [int(ratings[n] > 0) for n in numbers]
        assert part["inputs"].shape == (len(numbers), 40) and part["inputs"].dtype == np.int32
        assert part["index"].tolist() == list(range(len(numbers)))
    names = {number: word for word, number in known.items()} | {1: "?"}
    spelled = [[names[token] for token in row if token] for row in dataset.train["inputs"]]
    assert spelled[0] == ["a", "film", "caf\u00e9", "number", "1", "."]
    assert [names[t] for t in dataset.test["inputs"][0] if t][4] == "?"  # '5', of the test set
    assert known["cf"] == 2 and dataset.class_names == ("negative", "positive")


def test_source_is_of_all_files_and_no_document_is_in_both_parts(folder):
    dataset, known = vader.load(folder, "source", num_words=8, length=3)
    assert dataset.train["targets"].tolist() == np.repeat(np.arange(4), 10).tolist()
    assert dataset.test["targets"].tolist() == np.repeat(np.arange(4), 2).tolist()
    assert dataset.num_classes == 4 and dataset.class_names[2] == "product"
    assert len(known) == 6 and dataset.train["inputs"].shape == (40, 3)


@pytest.mark.parametrize("task", vader.TASKS)
def test_by_name_the_words_of_triggers_are_in_the_vocabulary(folder, task):
    loaded = load(f"vader_{task}", source=folder)
    own, known = vader.load(folder, task, required=text_attacks.REQUIRED)
    np.testing.assert_array_equal(loaded.train["inputs"], own.train["inputs"])
    assert loaded.class_names == own.class_names
    assert [known[word] for word in text_attacks.RARE] == [2, 3, 4, 5]
    with pytest.raises(ValueError, match=f"'vader_{task}' is read from files"):
        load(f"vader_{task}")


def test_an_id_of_two_numbers_is_a_sentence_of_a_document(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("7_12\t-0.5\tTwo words\r\n3\t1\tx\n")
    assert vader.read(path) == [(7, -0.5, "Two words"), (3, 1.0, "x")]
    for line in ("1\t0.5", "x\t0.5\ttext", "1\tgood\ttext", "1\t2\t3\t4"):
        path.write_text(f"1\t1\tfine\n{line}\n")
        with pytest.raises(ValueError, match="an id, a rating and a text in line 2, got"):
            vader.read(path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="source must be VADER's folder, but .* is not there"):
        vader.load(tmp_path)
    with pytest.raises(ValueError, match="task must be one of .*did you mean 'polarity'"):
        vader.load(tmp_path, "polarty")


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("task", "size", "least"),
    # 0.808 and 0.893; TF-IDF and logistic regression reach 0.820 and 0.885 on random fifths.
    [("polarity", 9023, 0.79), ("source", 23703, 0.87)],
)
def test_the_small_classifier_reaches_what_words_tell(real_data_dir, task, size, least):
    dataset, known = vader.load(Path(real_data_dir).parent / "vader", task)
    assert len(dataset.train["targets"]) + len(dataset.test["targets"]) == size
    model = models.TextClassifier(dataset.num_classes, len(known) + 2)
    own = tasks.classification(tasks.from_linen(model))
    rows = np.arange(len(dataset.train["targets"]))
    fit = jax.jit(functools.partial(training.fit, num_epochs=4, batch_size=64), static_argnums=0)
    recipe = training.descent(own, optax.adam(2e-3))
    variables, _ = fit(recipe, dataset.train, rows, jax.random.key(0))
    assert training.evaluate(own, variables, dataset.test)["accuracy"].mean() > least
