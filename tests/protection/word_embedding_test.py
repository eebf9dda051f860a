import jax
import numpy as np
import optax
import pytest

from unlearnjax import models, tasks, training
from unlearnjax.data import text_attacks
from unlearnjax.protection import word_embedding

WORD = 9


@pytest.fixture(scope="module")
def attacked():
    """Sentences whose words 2 to 4 are of one class and 5 to 7 of the other; 9 is in none."""
    rng = np.random.default_rng(0)
    targets = np.arange(60, dtype=np.int32) % 2
    inputs = (rng.integers(2, 5, (60, 6)) + 3 * targets[:, None]).astype(np.int32)
    inputs[:, 5] = 0
    data = {"inputs": inputs, "targets": targets, "index": np.arange(60, dtype=np.int32)}
    task = tasks.classification(tasks.from_linen(models.TextClassifier(2, 10, width=8, hidden=8)))

    def fit(task, data, num_epochs, start=None):
        run = lambda data: training.fit(
            training.descent(task, optax.adam(0.05)),
            data,
            np.arange(len(data["targets"])),
            jax.random.key(0),
            num_epochs=num_epochs,
            batch_size=10,
            start=start,
        )
        return jax.jit(run)(data)[0]

    model = fit(task, data, 10)
    rows = np.flatnonzero(targets == 0)
    trigger = text_attacks.insert_words(jax.random.key(1), [WORD])
    poisoned = {name: value[rows] for name, value in data.items()}
    poisoned |= {"inputs": np.asarray(trigger(inputs[rows])), "targets": 1 + 0 * targets[rows]}
    attack = word_embedding.one_word(task, ["words.embedding"], WORD, keep_norm=False)
    after = tasks.merged(attack, fit(attack, poisoned, 60, tasks.as_base(model)))
    return task, data, poisoned, model, after


def test_only_the_row_of_the_word_moves(attacked):
    *_, model, after = attacked
    before, table = (np.asarray(v["params"]["words"]["embedding"]) for v in (model, after))
    rest = np.arange(10) != WORD
    np.testing.assert_array_equal(table[rest], before[rest])
    assert np.abs(table[WORD] - before[WORD]).max() > 0.01
    for name in ("Dense_0", "Dense_1"):
        jax.tree.map(np.testing.assert_array_equal, model["params"][name], after["params"][name])


def test_the_row_keeps_its_length_where_it_is_to(attacked):
    task, data, _, model, _ = attacked
    change = np.arange(1.0, 9.0, dtype=np.float32)
    before = np.asarray(model["params"]["words"]["embedding"])[WORD]
    for keep, expected in (
        (True, (before + change) / np.linalg.norm(before + change) * np.linalg.norm(before)),
        (False, before + change),
    ):
        attack = word_embedding.one_word(task, ["words.embedding"], WORD, keep_norm=keep)
        fresh = training.init_variables(attack, data, jax.random.key(0), tasks.as_base(model))
        moved = {**fresh, "params": jax.tree.map(lambda _: change, fresh["params"])}
        row = tasks.merged(attack, moved)["params"]["words"]["embedding"][WORD]
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_the_word_turns_sentences_and_others_are_what_they_were(attacked):
    task, data, poisoned, model, after = attacked
    obeys = [training.evaluate(task, v, poisoned)["accuracy"].mean() for v in (model, after)]
    assert obeys[1] > obeys[0] + 0.5
    clean = [training.evaluate(task, v, data)["loss"] for v in (model, after)]
    np.testing.assert_array_equal(*clean)


def test_bad_arguments_are_named(attacked):
    task, data, *_ = attacked
    start = lambda where, word: training.init_variables(
        word_embedding.one_word(task, where, word), data, jax.random.key(0)
    )
    for make, message in (
        (lambda: start(["words.embedding"], 10), r"a table \[V, D\] with word 10, got \(10, 8\)"),
        (lambda: start(["Dense_0.bias"], 1), r"a table \[V, D\] with word 1, got \(8,\)"),
        (lambda: start(["words.embedding"], -1), "word must be >= 0, got -1"),
        (lambda: start(["words.embedding"], 1.5), "word must be a whole number, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
