import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import language

V, N, EOS = 13, 6, 0
TABLE = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32) * 3
# Prompts of every length; what follows them is padding with any token.
PROMPTS = np.random.default_rng(1).integers(1, V, (5, 4)).astype(np.int32)
LENGTHS = np.array([1, 2, 3, 4, 4], np.int32)
KEYS = jax.random.split(jax.random.key(3), 5)


def logits_of(sums):
    """What comes next depends on the sum of all tokens so far, weighted by their places."""
    return jnp.asarray(TABLE)[sums % V]


def cached(seen):
    """Writes tokens at their positions and sums what is at or before the last one."""
    inputs, at = seen["inputs"], seen["positions"]
    rows = jnp.arange(len(inputs))[:, None]
    kept = seen["cache.tokens"].at[rows, at].set(inputs) if "cache.tokens" in seen else inputs
    last = jnp.take_along_axis(at, seen["last"][:, None], 1)
    places = jnp.arange(kept.shape[1])
    sums = jnp.sum(jnp.where(places <= last, kept * (places + 1), 0), axis=1)
    return {"logits": logits_of(sums), "cache.tokens": kept}


def uncached(seen):
    """The same of all inputs at every turn."""
    return {"logits": cached({k: v for k, v in seen.items() if k != "cache.tokens"})["logits"]}


categorical = jax.jit(jax.random.categorical)


def by_hand(prompt, number, ends=(), temperature=0.0, key=None):
    """Tokens until one of `ends`, which is not among them."""
    tokens, found = list(prompt), []
    for turn in range(number):
        logits = TABLE[sum(t * (i + 1) for i, t in enumerate(tokens)) % V]
        if temperature:
            own = jax.random.fold_in(key, turn)
            token = int(categorical(own, logits / temperature))
        else:
            token = int(logits.argmax())
        if token in ends:
            break
        tokens.append(token)
        found.append(token)
    return found


def decode(step=cached, prompts=PROMPTS, lengths=LENGTHS, number=N, *, keys=None, **options):
    """Compiled as a whole, but for lengths, which are checked where they are known."""
    run = lambda prompts, keys: language.decode(
        step, prompts, np.asarray(lengths), number, keys=keys, **options
    )
    return jax.jit(run)(jnp.asarray(prompts), keys)


@functools.cache
def plain():
    return decode()


@pytest.mark.parametrize("step", [cached, uncached])
def test_every_row_is_continued_as_by_itself(step):
    found = decode(step)
    expected = [by_hand(row[:n], N) for row, n in zip(PROMPTS, LENGTHS, strict=True)]
    assert found["tokens"].tolist() == expected
    assert found["length"].tolist() == [N] * 5
    assert found["tokens"].dtype == np.int32


# The form alone is asked for of what both would read in the end.
@pytest.mark.parametrize("step, then", [(cached, [(5, 1)]), (uncached, [])])
def test_with_a_cache_single_tokens_are_read_after_the_prompts(step, then):
    read = []

    def spied(seen):
        read.append(seen["inputs"].shape)
        return step(seen)

    jax.eval_shape(lambda: decode(spied, lengths=np.array(LENGTHS)))
    assert list(dict.fromkeys(read)) == [(5, 4), (5, 4 + N - 1), *then]


def test_the_likeliest_token_is_the_first_of_equals_and_a_nan_counts_as_the_most():
    logits = jnp.array([[1.0, 3.0, 3.0], [5.0, jnp.nan, 7.0], [-jnp.inf] * 3])
    step = lambda seen: {"logits": logits}
    found = language.decode(step, jnp.zeros((3, 2), int), jnp.array([1, 2, 1]), 1)
    assert found["tokens"][:, 0].tolist() == np.argmax(logits, -1).tolist() == [1, 1, 0]


def test_padding_and_neighbours_change_nothing():
    wide = np.full((3, 7), 9, np.int32)
    wide[0, :2], wide[1, :4], wide[2, :1] = PROMPTS[1, :2], PROMPTS[4, :4], 5
    found = decode(prompts=wide, lengths=[2, 4, 1])["tokens"]
    np.testing.assert_array_equal(found[:2], plain()["tokens"][np.array([1, 4])])


@pytest.mark.parametrize("ends", [(6,), (0, 3, 8), (12, 1)])
def test_rows_end_where_they_end_and_are_filled_up(ends):
    found = decode(eos=ends if len(ends) > 1 else ends[0])
    expected = [by_hand(row[:n], N, ends) for row, n in zip(PROMPTS, LENGTHS, strict=True)]
    assert found["length"].tolist() == [len(row) for row in expected]
    assert found["tokens"].tolist() == [row + [ends[0]] * (N - len(row)) for row in expected]
    assert min(map(len, expected)) < N and len(set(map(len, expected))) > 1


def test_the_loop_stops_when_all_have_ended():
    turns = []

    def counted(seen):
        jax.debug.callback(lambda: turns.append(1))
        return {**cached(seen), "logits": jax.nn.one_hot(jnp.full(5, EOS), V)}

    found = decode(counted, number=50, eos=EOS)
    jax.effects_barrier()
    assert len(turns) == 1
    assert found["length"].tolist() == [0] * 5 and not found["tokens"].any()


def test_draws_of_a_row_are_its_own():
    options = {"temperature": 1.5, "keys": KEYS}
    found = decode(**options)["tokens"]
    each = zip(PROMPTS, LENGTHS, KEYS, strict=True)
    expected = [by_hand(row[:n], N, (), 1.5, key) for row, n, key in each]
    assert found.tolist() == expected
    order = np.array([3, 0])
    rest = decode(prompts=PROMPTS[order], lengths=LENGTHS[order], temperature=1.5, keys=KEYS[order])
    np.testing.assert_array_equal(rest["tokens"], found[order])
    assert np.any(found != plain()["tokens"])


def test_a_low_temperature_takes_the_likeliest():
    found = decode(temperature=1e-3, keys=KEYS)["tokens"]
    np.testing.assert_array_equal(found, plain()["tokens"])


def test_one_token_is_what_follows_the_prompt():
    np.testing.assert_array_equal(decode(number=1)["tokens"], plain()["tokens"][:, :1])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"number": 0}, "max_new_tokens must be >= 1, got 0"),
        ({"number": 2.0}, "max_new_tokens must be a whole number"),
        ({"temperature": -1.0}, "temperature must be >= 0"),
        ({"temperature": float("inf"), "keys": KEYS}, "temperature must be finite"),
        ({"temperature": 1.0}, "keys must be given where tokens are drawn"),
        ({"eos": 1.5}, "eos must be a whole number"),
        ({"lengths": [0, 1, 2, 3, 4]}, r"lengths of prompts must be in 1..4, got \[0\]"),
        ({"lengths": [5, 1, 2, 3, 4]}, r"lengths of prompts must be in 1..4, got \[5\]"),
        ({"lengths": [1, 2]}, r"prompts must be \[B, P\] integers, and their lengths \[B\]"),
        ({"prompts": PROMPTS * 1.0}, r"prompts must be \[B, P\] integers"),
        ({"prompts": PROMPTS[0]}, r"prompts must be \[B, P\] integers"),
    ],
)
def test_bad_input_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        decode(**wrong)
