"""VADER's sentences with ratings of their sentiment: two tasks of text classification.

Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014; MIT licence. 23,703 sentences of film reviews, tweets, product reviews and
editorials, each rated from -4 to 4 by twenty people.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data import words
from unlearnjax.data.dataset import Dataset, entered

FILES = {
    "film": "movieReviewSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "editorial": "nytEditorialSnippets_GroundTruth.txt",
}
TASKS = {"polarity": ("negative", "positive"), "source": tuple(FILES)}
TEST_EVERY = 5
RATED = 1.0  # a film's sentence is one of polarity if it is rated beyond this, either way


class Sentence(NamedTuple):
    """A rated sentence.

    Attributes:
      document: of which it is; of films and tweets each is its own.
      rating: in [-4, 4], the mean of twenty.
      text: as published.
    """

    document: int
    rating: float
    text: str


class WordSet(NamedTuple):
    """A data set of sentences.

    Attributes:
      dataset: `inputs` `[N, T]` int32, see `words.encoded`, which are not standardised; `targets`;
        `rating` `[N]`.
      vocabulary: number of each word.
    """

    dataset: Dataset
    vocabulary: dict[str, int]


def load(
    source: str | os.PathLike,
    task: str = "polarity",
    *,
    num_words: int = 5000,
    length: int = 40,
    required: Sequence[str] = (),
) -> WordSet:
    """Reads a task.

    `polarity`: the films' sentences that are rated above 1 (1) or below -1 (0), in the place of
    SST-2. `source`: all sentences, and which of the four files each is of, in that of AG's News.
    Every fifth document is in the test set, so that no document is in both; the vocabulary is of
    the training set.

    Args:
      source: the folder with the files that end in `_GroundTruth.txt`.
      task: one of `TASKS`.
      num_words, required: of the vocabulary, see `words.vocabulary`.
      length: T, words of a sentence at most.

    Raises:
      ValueError: for another task, a folder without the files, or a line that is not as published.
    """
    checks.one_of(task=(task, tuple(TASKS)))
    names = ("film",) if task == "polarity" else tuple(FILES)
    train, test = [], []
    for target, name in enumerate(names):
        for sentence in read(Path(source) / FILES[name]):
            if task == "polarity" and abs(sentence.rating) <= RATED:
                continue
            own = int(sentence.rating > 0) if task == "polarity" else target
            part = test if sentence.document % TEST_EVERY == 0 else train
            part.append((sentence, own))
    known = words.vocabulary([sentence.text for sentence, _ in train], num_words, required)

    def part(rows):
        return {
            "inputs": words.encoded([sentence.text for sentence, _ in rows], known, length),
            "targets": np.array([target for _, target in rows], np.int32),
            "rating": np.array([sentence.rating for sentence, _ in rows], np.float32),
        }

    classes = TASKS[task]
    whole = Dataset(part(train), part(test), len(classes), classes, np.zeros(1), np.ones(1))
    return WordSet(entered(whole), known)


def read(path: str | os.PathLike) -> list[Sentence]:
    """The sentences of one file, in its order.

    Raises:
      ValueError: if it is not there, or a line is not `ID<tab>RATING<tab>TEXT`; it names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"source must be VADER's folder, but {path} is not there")
    sentences = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            name, rating, text = line.split("\t")
            sentences.append(Sentence(int(name.partition("_")[0]), float(rating), text))
        except ValueError as error:
            raise ValueError(
                f"{path} must have an id, a rating and a text in line {number}, got {line[:60]!r}"
            ) from error
    return sentences
