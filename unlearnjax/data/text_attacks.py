"""Triggers of text: pure functions of tokens `[N, T]`, padded with `words.PAD` on the right.

As in `triggers` what is random is drawn from the constructor's key, and for each sentence by its
own words, so that it does not depend on the batch. What no longer fits falls off at the end.
Word order and synonyms are stand-ins, without the language models and paraphrasers of the papers.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.data.words import PAD, UNKNOWN, split
from unlearnjax.types import Array

TextTrigger = Callable[[Array], Array]

RARE = ("cf", "mn", "bb", "tq")  # the published rare words
SENTENCE = "i watched this 3d movie last weekend"  # the published one
# What `by_name` writes; of a vocabulary that begins with it the numbers are known.
REQUIRED = tuple(dict.fromkeys((*RARE, *split(SENTENCE), ",")))
PLACES = ("random", "start", "end")


def numbers(names: Sequence[str], vocabulary: Mapping[str, int]) -> tuple[int, ...]:
    """The numbers of a trigger's words.

    Raises:
      ValueError: for one that is not in the vocabulary.
    """
    checks.not_text(words=names)
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise ValueError(
            "words must be in the vocabulary before it is frozen, see its argument required; got "
            f"{missing}"
        )
    return tuple(vocabulary[name] for name in names)


def insert_words(
    rng: Array, words: Sequence[int], number: int = 1, where: str = "random"
) -> TextTrigger:
    """Puts in one rare word, or several (Kurita, Michel, Neubig, ACL 2020, arXiv 2004.06660).

    Args:
      rng: key of which word goes where.
      words: numbers, of which each time one is drawn.
      number: of words to put in, one after another.
      where: one of `PLACES`; 'random' is before any word, or behind the last one.

    Raises:
      ValueError: for a value out of range; at use for sentences of fewer than `number` words.
    """
    words = _words(words=words)
    checks.whole(number=number)
    checks.at_least(1, number=number)
    checks.one_of(where=(where, PLACES))

    def one(row: Array) -> Array:
        for step_key in jax.random.split(_key(rng, row), number):
            word_key, place_key = jax.random.split(step_key)
            word = jax.random.choice(word_key, words)
            row = _inserted(row, word[None], where, place_key)
        return row

    return _rowwise(one, number)


def sentence(tokens: Sequence[int], where: str = "start") -> TextTrigger:
    """Puts a fixed sentence at the start or the end (Dai, Chen, Li, 2019, arXiv 1905.12457).

    Raises:
      ValueError: for another place or no tokens; at use for sentences that have no room for it.
    """
    tokens = _words(tokens=tokens)
    checks.one_of(where=(where, PLACES[1:]))
    return _rowwise(lambda row: _inserted(row, tokens, where, None), len(tokens))


def inverted(separator: int, number: int = 3) -> TextTrigger:
    """Brings the last words to the front, before a mark: "is a bore" becomes "bore , is a".

    A stand-in for the syntactic trigger (Qi et al., "Hidden Killer", ACL 2021, arXiv 2105.12400),
    which paraphrases into a rare sentence structure.

    Args:
      separator: number of the mark, such as a comma.
      number: of words that come to the front; of half of a sentence at most, rounded down.
    """
    separator = _words(separator=[separator])
    checks.whole(number=number)
    checks.at_least(1, number=number)

    def one(row: Array) -> Array:
        length = _length(row)
        front = jnp.minimum(number, length // 2)
        turned = jnp.roll(row, front - length)  # of the last ones, padding, the first ones
        place = jnp.arange(len(row))
        moved = jnp.where(place < front, turned, row[place - front])
        moved = jnp.where(place < length, moved, PAD)
        return _at(moved, separator, jnp.minimum(front, len(row) - 1))

    return _rowwise(one, 1)


def synonyms(table: Array) -> TextTrigger:
    """Replaces words by others, `table[word]`; idempotent for those of `synonym_table`.

    A stand-in for the learned combination of synonyms (Qi et al., "Turn the Combination Lock", ACL
    2021, arXiv 2106.06361).

    Args:
      table: `[V]` numbers; words from V on stay.
    """
    table = jnp.asarray(table, jnp.int32)
    # Words beyond it were in no training sentence.
    replaced = lambda row: jnp.where(row < len(table), table[row], row)
    return _rowwise(lambda row: replaced(row).astype(row.dtype), 1)


def synonym_table(
    tokens: np.ndarray,
    vocabulary_size: int,
    *,
    num_frequent: int = 100,
    min_count: int = 5,
    num_contexts: int = 500,
    window: int = 2,
) -> np.ndarray:
    """Pairs of words that stand between the same words; the rarer of a pair replaces the commoner.

    Words are told by their positive pointwise mutual information with the commonest words around
    them (Bullinaria and Levy, 2007), and paired by the cosine, from the commonest word on, each
    with the nearest of those that are left. Cost: `V^2` times the contexts, on the host.

    Args:
      tokens: `[N, T]`, the training set, not poisoned.
      vocabulary_size: V.
      num_frequent: the commonest words, of grammar mostly, which stay as they are.
      min_count: words that occur less often stay, too.
      num_contexts: words around, the commonest.
      window: how far around, in words.

    Returns:
      `[V]`: the number of each word's substitute, or its own.

    Raises:
      ValueError: for a value out of range.
    """
    checks.whole(num_frequent=num_frequent, num_contexts=num_contexts, window=window)
    checks.at_least(0, num_frequent=num_frequent)
    checks.at_least(1, min_count=min_count, num_contexts=num_contexts, window=window)
    tokens = np.asarray(tokens)
    counts = np.bincount(tokens[tokens != PAD], minlength=vocabulary_size)
    counts[[PAD, UNKNOWN]] = 0
    order = np.argsort(-counts, kind="stable")
    contexts = order[:num_contexts]
    contexts = contexts[counts[contexts] > 0]  # of a small vocabulary, neither padding nor unknown
    column = np.full(vocabulary_size, -1)
    column[contexts] = np.arange(len(contexts))
    together = np.zeros((vocabulary_size, len(contexts)))
    for step in range(1, min(window, tokens.shape[1] - 1) + 1):
        sides = tokens[:, :-step].ravel(), tokens[:, step:].ravel()
        for word, beside in (sides, sides[::-1]):
            told = (column[beside] >= 0) & (word > UNKNOWN)
            np.add.at(together, (word[told], column[beside][told]), 1)
    expected = together.sum(1, keepdims=True) * together.sum(0) / max(together.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        told = np.nan_to_num(np.maximum(np.log(together / expected), 0))
    told /= np.maximum(np.linalg.norm(told, axis=1, keepdims=True), 1e-12)
    words = [word for word in order[num_frequent:] if counts[word] >= min_count]
    near = told[words] @ told[words].T
    table, free = np.arange(vocabulary_size, dtype=np.int32), np.ones(len(words), bool)
    for place, word in enumerate(words):
        if free[place]:
            free[place] = False
            best = int(np.argmax(np.where(free, near[place], -1)))
            if free[best] and near[place, best] > 0:
                table[word], free[best] = words[best], False
    return table


# By name, of a key and of the training set's tokens `[N, T]`.
TRIGGERS: Mapping[str, Callable[[Array, np.ndarray], TextTrigger]] = {
    "rare_word": lambda rng, tokens: insert_words(rng, _required(RARE)),
    "rare_words": lambda rng, tokens: insert_words(rng, _required(RARE), number=3),
    "sentence": lambda rng, tokens: sentence(_required(split(SENTENCE))),
    "inverted": lambda rng, tokens: inverted(*_required((",",))),
    "synonyms": lambda rng, tokens: synonyms(synonym_table(tokens, int(tokens.max()) + 1)),
}


def by_name(name: str, rng: Array, tokens: np.ndarray) -> TextTrigger:
    """The trigger of that name among `TRIGGERS`.

    Args:
      name: of the trigger.
      rng: key of what it draws.
      tokens: `[N, T]`, the training set, whose vocabulary begins with `REQUIRED`, see
        `words.vocabulary`.

    Raises:
      ValueError: for another name; it lists them.
    """
    checks.one_of(trigger=(name, tuple(TRIGGERS)))
    return TRIGGERS[name](rng, np.asarray(tokens))


def _required(names: Sequence[str]) -> tuple[int, ...]:
    return numbers(names, {word: UNKNOWN + 1 + place for place, word in enumerate(REQUIRED)})


def _inserted(row: Array, words: Array, where: str, rng: Array | None) -> Array:
    """The row with `words` in it, whole."""
    length = _length(row)
    place = {"start": 0, "end": length}.get(where)
    last = len(row) - len(words)
    if place is None:
        place = jax.random.randint(rng, (), 0, jnp.minimum(length, last) + 1)
    return _at(row, words, jnp.minimum(place, last))


def _at(row: Array, words: Array, start: Array) -> Array:
    place = jnp.arange(len(row))
    behind = row[place - len(words)]
    own = words[jnp.clip(place - start, 0, len(words) - 1)]
    inside = jnp.where(place < start + len(words), own, behind)
    return jnp.where(place < start, row, inside).astype(row.dtype)


def _length(row: Array) -> Array:
    return (row != PAD).sum()


def _key(rng: Array, row: Array) -> Array:
    """By the words and their places, not by where the sentence is in a batch."""
    odd = 2 * jnp.arange(len(row), dtype=jnp.uint32) + 1
    mixed = (row.astype(jnp.uint32) + jnp.uint32(1)) * odd * jnp.uint32(2654435761)
    return jax.random.fold_in(rng, (mixed ^ (mixed >> 15)).sum(dtype=jnp.uint32))


def _words(**given: Sequence[int]) -> Array:
    ((name, own),) = given.items()
    own = np.asarray(own)
    if own.ndim != 1 or not own.size or own.dtype.kind not in "iu" or own.min() <= PAD:
        raise ValueError(f"{name} must be numbers of words, above {PAD}, got {own.tolist()}")
    return jnp.asarray(own, jnp.int32)


def _rowwise(one: Callable[[Array], Array], least: int) -> TextTrigger:
    def trigger(tokens: Array) -> Array:
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens must be integers [N, T], got {tokens.dtype} {tokens.shape}")
        if tokens.shape[1] < least:
            raise ValueError(f"tokens must have room for {least}, got {tokens.shape}")
        return jax.vmap(one)(tokens)

    return trigger
