"""Sentences as words: a vocabulary that is frozen once, and right-padded token arrays.

For small classifiers of text; what language models read is in `text`.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from unlearnjax import checks

PAD, UNKNOWN = 0, 1  # what fills a sentence up, and every word that the vocabulary lacks


def split(text: str) -> list[str]:
    """Words in lower case, with an apostrophe inside of them, and each mark by itself.

    Examples:
      >>> split("It isn't BAD, really!")
      ['it', "isn't", 'bad', ',', 'really', '!']
    """
    return re.findall(r"\w+(?:'\w+)*|[^\w\s]", text.lower())


def vocabulary(
    texts: Iterable[str], size: int = 5000, required: Sequence[str] = ()
) -> dict[str, int]:
    """Numbers of the commonest words, from 2 on; those that are as common by the alphabet.

    Args:
      texts: of the training set; of others nothing is to be known.
      size: V, the two numbers without a word included.
      required: words that come first, however rare, such as those of a trigger: the vocabulary is
        frozen before anything is poisoned.

    Raises:
      ValueError: for a size without room for these, or what `split` does not take for one word.
    """
    checks.not_text(texts=texts, required=required)
    checks.whole(size=size)
    checks.at_least(3 + len(required), size=size)
    required = list(dict.fromkeys(required))
    for word in required:
        if split(word) != [word]:
            raise ValueError(f"required must be words in lower case, got {word!r}")
    counts = collections.Counter(word for text in texts for word in split(text))
    common = sorted(counts.keys() - set(required), key=lambda word: (-counts[word], word))
    return {word: 2 + number for number, word in enumerate((required + common)[: size - 2])}


def encoded(texts: Sequence[str], known: Mapping[str, int], length: int = 40) -> np.ndarray:
    """`[N, length]` int32: numbers of the words, cut or filled up with `PAD` on the right.

    Raises:
      ValueError: for a length below 1.

    Examples:
      >>> encoded(["a bad day", "bad"], {"a": 2, "bad": 3}, 4).tolist()
      [[2, 3, 1, 0], [3, 0, 0, 0]]
    """
    checks.not_text(texts=texts)
    checks.whole(length=length)
    checks.at_least(1, length=length)
    rows = np.full((len(texts), length), PAD, np.int32)
    for row, text in zip(rows, texts, strict=True):
        own = [known.get(word, UNKNOWN) for word in split(text)[:length]]
        row[: len(own)] = own
    return rows
