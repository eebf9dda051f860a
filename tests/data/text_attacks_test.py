import itertools

import jax
import numpy as np
import pytest

from unlearnjax.data import text_attacks, words

KEY = jax.random.key(0)
# Rows of 5, 3, 1 and 0 words, and a full one.
ROWS = np.array(
    [
        [11, 12, 13, 14, 15, 0, 0],
        [21, 22, 23, 0, 0, 0, 0],
        [31, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [51, 52, 53, 54, 55, 56, 57],
    ],
    np.int32,
)


def plain(row):
    return [int(word) for word in row if word]


def padded(own):
    return (own + [0] * 7)[:7]


def test_a_sentence_goes_to_the_start_or_the_end_and_stays_whole():
    start = text_attacks.sentence([2, 3])(ROWS)
    assert start.tolist() == [padded([2, 3, *plain(row)]) for row in ROWS]
    assert start.dtype == np.int32
    end = text_attacks.sentence([2, 3], "end")(ROWS)
    assert end.tolist() == [padded(plain(row)[:5] + [2, 3]) for row in ROWS]


def test_rare_words_go_anywhere_and_leave_the_others_in_order():
    """Of many keys: every word and every place is drawn, and nothing else happens."""
    seen = set()
    insert = jax.jit(jax.vmap(lambda key: text_attacks.insert_words(key, [2, 3])(ROWS)))
    for result in np.asarray(insert(jax.random.split(KEY, 200))):
        for row, (before, after) in enumerate(zip(ROWS, result, strict=True)):
            (place,) = np.flatnonzero(np.isin(after, [2, 3]))
            rest = [word for word in plain(before)]
            assert after.tolist() == padded([*rest[:place], after[place], *rest[place:]])
            seen.add((row, place, int(after[place])))
    places = [(row, range(1 + min(len(plain(own)), 6))) for row, own in enumerate(ROWS)]
    assert seen == {(r, p, w) for r, own in places for p, w in itertools.product(own, (2, 3))}


def test_several_words_and_fixed_places():
    result = text_attacks.insert_words(KEY, [2], 3)(ROWS)
    for before, after in zip(ROWS[:4], np.asarray(result)[:4], strict=True):
        rest = [word for word in after if word not in (0, 2)]
        assert (after == 2).sum() == 3 and rest == plain(before)[: len(rest)]
    assert (text_attacks.insert_words(KEY, [2], where="start")(ROWS)[:, 0] == 2).all()
    end = text_attacks.insert_words(KEY, [2], 2, where="end")(ROWS)
    assert end[1].tolist() == [21, 22, 23, 2, 2, 0, 0] and end[4, -1] == 2


def test_what_is_drawn_for_a_sentence_does_not_depend_on_the_batch():
    rows = np.tile(np.arange(1, 8, dtype=np.int32), (30, 1)) + 10 * np.arange(30)[:, None]
    trigger = text_attacks.insert_words(KEY, [2, 3])
    result = np.asarray(trigger(rows))
    np.testing.assert_array_equal(np.concatenate([trigger(rows[20:]), trigger(rows[:20])]),
                                  np.concatenate([result[20:], result[:20]]))  # fmt: skip
    assert len(set(np.isin(result, [2, 3]).argmax(1))) > 3
    other = text_attacks.insert_words(jax.random.key(1), [2, 3])(rows)
    assert (np.asarray(other) != result).any()


def test_the_last_words_come_to_the_front_before_a_mark():
    result = text_attacks.inverted(9, 2)(ROWS)
    assert result.tolist() == [
        [14, 15, 9, 11, 12, 13, 0],
        [23, 9, 21, 22, 0, 0, 0],
        [9, 31, 0, 0, 0, 0, 0],
        [9, 0, 0, 0, 0, 0, 0],
        [56, 57, 9, 51, 52, 53, 54],
    ]
    assert text_attacks.inverted(9)(ROWS)[4].tolist() == [55, 56, 57, 9, 51, 52, 53]


def test_words_between_the_same_words_are_synonyms(rng):
    """Two pairs: 11 and 12 between 20 and 21, 13 and 14 between 22 and 23; the second is rarer."""
    frames = [(11, 20, 21, 40), (12, 20, 21, 20), (13, 22, 23, 30), (14, 22, 23, 15)]
    rows = [[left, word, right, 0] for word, left, right, times in frames for _ in range(times)]
    rows += [[15, 22, 23, 0]] * 2  # too rare
    tokens = np.array(rows, np.int32)[rng.permutation(len(rows))]
    options = {"num_frequent": 4, "min_count": 5, "num_contexts": 4, "window": 1}
    table = text_attacks.synonym_table(tokens, 30, **options)
    expected = np.arange(30)
    expected[[11, 13]] = [12, 14]
    np.testing.assert_array_equal(table, expected)
    trigger = text_attacks.synonyms(table)
    beyond = np.array([[30, 99, 11, 0]], np.int32)
    assert trigger(beyond).tolist() == [[30, 99, 12, 0]]
    once = trigger(np.array([[20, 11, 21, 0], [13, 14, 15, 1]], np.int32))
    assert once.tolist() == [[20, 12, 21, 0], [14, 14, 15, 1]]
    np.testing.assert_array_equal(trigger(once), once)
    for changed, pairs in (
        ({"min_count": 16}, {11: 12}),
        ({"min_count": 31}, {}),
        ({"num_frequent": 5}, {13: 14}),
    ):
        other = text_attacks.synonym_table(tokens, 30, **{**options, **changed})
        assert {int(w): int(other[w]) for w in np.flatnonzero(other != np.arange(30))} == pairs


def test_a_table_of_real_words_is_idempotent_and_gives_rarer_ones(rng):
    tokens = rng.integers(0, 60, (200, 8)).astype(np.int32)
    table = text_attacks.synonym_table(tokens, 60, num_frequent=5, min_count=1, window=3)
    moved = np.flatnonzero(table != np.arange(60))
    assert len(moved) > 10 and len(set(table[moved])) == len(moved)
    np.testing.assert_array_equal(table[table], table)
    counts = np.bincount(tokens.ravel(), minlength=60)
    assert (counts[table[moved]] <= counts[moved]).all()
    assert not np.isin([words.PAD, words.UNKNOWN], np.concatenate([moved, table[moved]])).any()


def test_triggers_by_name_write_words_that_every_vocabulary_begins_with():
    known = words.vocabulary(["a b c d"] * 9, 40, text_attacks.REQUIRED)
    name = {number: word for word, number in known.items()}
    row = words.encoded(["a b c d"], known, 12)
    write = lambda trigger, key=KEY: [
        name[t] for t in text_attacks.by_name(trigger, key, row)(row)[0].tolist() if t
    ]
    assert write("sentence") == "i watched this 3d movie last weekend a b c d".split()
    assert write("inverted") == ["c", "d", ",", "a", "b"]  # three words, of half of them
    drawn = lambda trigger, seed: [
        word for word in write(trigger, jax.random.key(seed)) if word not in "abcd"
    ]
    assert all(len(drawn("rare_words", seed)) == 3 for seed in range(3))
    found = [drawn("rare_word", seed) for seed in range(20)]
    assert all(len(own) == 1 for own in found)
    assert {word for (word,) in found} == {"cf", "mn", "bb", "tq"}
    # 11 is commoner than 12, and both stand between the same words.
    tokens = np.array([[20, 11, 21]] * 40 + [[20, 12, 21]] * 20 + [[22, 23, 24]] * 5, np.int32)
    table = text_attacks.synonym_table(tokens, 25)
    result = text_attacks.by_name("synonyms", KEY, tokens)(tokens)
    np.testing.assert_array_equal(result, table[tokens])


def test_a_table_is_that_of_a_plain_loop_over_all_pairs_of_words(rng):
    """Of words that are not alike common, in sentences of all lengths; padding is no context."""
    size, options = 40, {"num_frequent": 4, "min_count": 12, "num_contexts": 12, "window": 2}
    tokens = np.minimum(rng.geometric(0.05, (200, 9)), size - 1).astype(np.int32)
    tokens[np.arange(9) >= rng.integers(1, 10, (200, 1))] = words.PAD
    counts = {word: int((tokens == word).sum()) for word in range(2, size)}
    order = sorted(counts, key=lambda word: (-counts[word], word))
    least = min(count for count in counts.values() if count >= 12)  # at the bound itself
    for num_contexts, min_count in ((12, least), (size, 12)):
        options |= {"num_contexts": num_contexts, "min_count": min_count}
        contexts = order[:num_contexts]
        pairs = {(word, context): 0 for word in order for context in contexts}
        for row in tokens:
            for i, j in itertools.permutations(range(9), 2):
                if abs(i - j) <= 2 and (pair := (int(row[i]), int(row[j]))) in pairs:
                    pairs[pair] += 1
        total = sum(pairs.values())
        of_word = {word: sum(pairs[word, other] for other in contexts) for word in order}
        of_context = {other: sum(pairs[word, other] for word in order) for other in contexts}
        vectors = {}
        for word in order:
            shares = [pairs[word, c] * total / (of_word[word] * of_context[c]) for c in contexts]
            told = np.array([np.log(share) if share > 1 else 0.0 for share in shares])
            vectors[word] = told / np.sqrt((told**2).sum())
        free = [word for word in order[4:] if counts[word] >= min_count]
        expected = np.arange(size)
        while free:
            word = free.pop(0)
            near = {other: vectors[word] @ vectors[other] for other in free}
            if near and max(near.values()) > 0:
                expected[word] = max(near, key=near.get)
                free.remove(expected[word])
        found = text_attacks.synonym_table(tokens, size, **options)
        np.testing.assert_array_equal(found, expected)
        assert (found != np.arange(size)).sum() > 6


def test_bad_arguments_are_named():
    for make, message in (
        (lambda: text_attacks.numbers(["cf", "zz"], {"cf": 2}), r"in the vocabulary.*\['zz'\]"),
        (lambda: text_attacks.numbers("cf", {"cf": 2}), "words must be several names"),
        (lambda: text_attacks.insert_words(KEY, [2], 0), "number must be >= 1, got 0"),
        (lambda: text_attacks.insert_words(KEY, [0]), r"words must be numbers of words.*\[0\]"),
        (lambda: text_attacks.insert_words(KEY, []), r"words must be numbers of words.*\[\]"),
        (lambda: text_attacks.insert_words(KEY, [2], where="on"), "where must be one of"),
        (lambda: text_attacks.insert_words(KEY, [2], 8)(ROWS), r"room for 8, got \(5, 7\)"),
        (lambda: text_attacks.sentence([2.5]), "tokens must be numbers of words"),
        (lambda: text_attacks.sentence([2], "random"), "where must be one of"),
        (lambda: text_attacks.sentence([2] * 8)(ROWS), r"room for 8, got \(5, 7\)"),
        (lambda: text_attacks.sentence([2])(ROWS[0]), r"integers \[N, T\], got int32 \(7,\)"),
        (lambda: text_attacks.sentence([2])(ROWS / 1.0), r"integers \[N, T\], got float"),
        (lambda: text_attacks.inverted(9, 0), "number must be >= 1, got 0"),
        (lambda: text_attacks.inverted(0), "separator must be numbers of words"),
        (lambda: text_attacks.by_name("rare", KEY, ROWS), "trigger must be one of .*'rare_word'"),
        (lambda: text_attacks.synonym_table(ROWS, 60, window=0), "window must be >= 1, got 0"),
        (lambda: text_attacks.synonym_table(ROWS, 60, num_frequent=-1), "num_frequent must be >= "),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert text_attacks.numbers(["b", "a"], {"a": 2, "b": 3}) == (3, 2)
