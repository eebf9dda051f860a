"""ROUGE-L: the longest common subsequence of an answer's words and a reference's.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004. Our own, since it is short: the
package rouge-score, to which it is equal, takes twenty times as long or more (which matters beside
a small model) and brings NLTK along, of which it needs a stemmer.
"""

import re
from collections.abc import Callable, Hashable, Sequence

import numpy as np


def rouge_l(
    references: Sequence[str],
    candidates: Sequence[str],
    stem: Callable[[str], str] | None = None,
) -> dict[str, np.ndarray]:
    """Of words in lower case, which are runs of the letters a to z and digits.

    Published numbers of TOFU and open-unlearning are recalls of stemmed words, MUSE's are F1
    without a stemmer. Value of a perfect unlearner: the oracle's, a recall of 0.41 for Llama-2-7b
    on TOFU.

    Args:
      references: N texts.
      candidates: what a model said in their place.
      stem: of words longer than three letters, e.g. `nltk.stem.porter.PorterStemmer().stem`.

    Returns:
      `recall`, `precision` and `f1`, `[N]` each: the length of the subsequence by that of the
      reference and of the candidate, 0 where one has no words; and their harmonic mean.

    Raises:
      ValueError: for different numbers of texts.

    Examples:
      >>> found = rouge_l(["the cat sat on the mat"], ["The cat, the mat!"])
      >>> found["recall"].round(3), found["precision"], found["f1"]
      (array([0.667]), array([1.]), array([0.8]))
    """
    if len(references) != len(candidates):
        raise ValueError(
            f"references and candidates must be as many, got {len(references)} and "
            f"{len(candidates)}"
        )
    stems: dict[str, str] = {}

    def words(text: str) -> list[str]:
        found = re.findall(r"[a-z0-9]+", text.lower())
        if stem is None:
            return found
        for word in set(found) - set(stems):
            stems[word] = stem(word) if len(word) > 3 else word
        return [stems[word] for word in found]

    pairs = [(words(r), words(c)) for r, c in zip(references, candidates, strict=True)]
    common = np.array([longest_common_subsequence(r, c) for r, c in pairs], np.float64)
    sizes = np.array([[len(r), len(c)] for r, c in pairs]).reshape(-1, 2)
    recall, precision = (common / np.maximum(size, 1) for size in sizes.T)
    f1 = 2 * common / np.maximum(sizes.sum(1), 1)
    return {"recall": recall, "precision": precision, "f1": f1}


def longest_common_subsequence(one: Sequence[Hashable], two: Sequence[Hashable]) -> int:
    """The length of it, of words or tokens; in whole rows of the table, as bits of one number.

    References:
      Hyyro, "Bit-Parallel LCS-length Computation Revisited", 2004.

    Examples:
      >>> longest_common_subsequence("abcbdab", "bdcaba")
      4
    """
    places: dict[Hashable, int] = {}
    for i, item in enumerate(one):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << len(one)) - 1
    row = full
    for item in two:
        taken = row & places.get(item, 0)
        row = ((row + taken) | (row - taken)) & full
    return len(one) - row.bit_count()
