"""Captions of a grid of styles and objects: templates, words as tokens, what names a concept.

As CLIP has them, captions begin with a token and are filled up with the one that ends them; but a
token is a word here, and the vocabulary holds no more words than the templates and names do. The
first template is that of UnlearnCanvas (Zhang et al., NeurIPS 2024, arXiv 2402.11846).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from unlearnjax import checks
from unlearnjax.types import Array, Batch

START, END = "<s>", "</s>"
LENGTH = 12
BENCHMARK = "a {object} image in {style} style"
# Those that an eraser may see of what it erases, and those that only ask for it afterwards.
TEMPLATES = (BENCHMARK, "{style} picture of a {object}", "a {object}", "{style} style")
HELD_OUT = ("the {object} drawn in {style} style", "the {style} {object}")
# Columns of several captions, and the columns of the one that is drawn.
DRAWN = {"captions": "condition", "concepts": "concept"}
_PUNCTUATION = ".,;:!?\"'"


class Vocabulary(NamedTuple):
    """The words that captions are made of; a token is the place of its word.

    Attributes:
      words: `START` and `END` first.
      length: L, tokens of a caption.
    """

    words: tuple[str, ...]
    length: int = LENGTH

    @property
    def empty(self) -> tuple[int, ...]:
        """The L tokens of a caption that says nothing."""
        return (0, *[1] * (self.length - 1))


class Prompts(NamedTuple):
    """Every template filled in with every style and object.

    Attributes:
      tokens: `[S, O, T, L]` int32.
      style, object: `[S, O, T, L]` booleans, the positions at which either is named.
    """

    tokens: np.ndarray
    style: np.ndarray
    object: np.ndarray


def vocabulary(
    styles: Iterable[str],
    objects: Iterable[str],
    templates: Sequence[str] = TEMPLATES + HELD_OUT,
    length: int = LENGTH,
) -> Vocabulary:
    """The words of templates, styles and objects.

    Args:
      styles, objects: names; an underscore is a space, and upper case is lower.
      templates: texts with `{style}`, `{object}`, both or neither.
      length: L, at least 3.

    Raises:
      ValueError: for a name without a word, or a caption that is too long.

    Examples:
      >>> vocabulary(["neon"], ["three"], ["a {object}"]).words
      ('<s>', '</s>', 'a', 'neon', 'three')
    """
    checks.whole(length=length)
    checks.at_least(3, length=length)
    checks.not_text(styles=styles, objects=objects, templates=templates)
    styles, objects = list(styles), list(objects)
    plain = [template.format(style="", object="") for template in templates]
    named = {word for text in (*plain, *styles, *objects) for word in _words(text)}
    result = Vocabulary((START, END, *sorted(named)), length)
    prompts(result, styles, objects, templates)
    return result


def encode(vocabulary: Vocabulary, texts: Iterable[str]) -> np.ndarray:
    """`[N, L]` int32: captions as tokens.

    Raises:
      ValueError: for a word that is not in the vocabulary, and more words than there is room for.

    Examples:
      >>> words = vocabulary(["neon"], ["three"], ["a {object}"], length=5)
      >>> encode(words, ["A three.", ""]).tolist()
      [[0, 2, 4, 1, 1], [0, 1, 1, 1, 1]]
    """
    checks.not_text(texts=texts)
    return np.array([_tokens(vocabulary, _words(text)) for text in texts], np.int32).reshape(
        -1, vocabulary.length
    )


def decode(vocabulary: Vocabulary, tokens: np.ndarray) -> list[str]:
    """The captions of `[N, L]` tokens, without what begins and ends them.

    Examples:
      >>> words = vocabulary(["neon"], ["three"])
      >>> decode(words, encode(words, ["a three image in neon style"]))
      ['a three image in neon style']
    """
    return [" ".join(vocabulary.words[token] for token in row if token > 1) for row in tokens]


def prompts(
    vocabulary: Vocabulary,
    styles: Sequence[str],
    objects: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> Prompts:
    """Every template filled in with every style and object, and where these are named.

    Raises:
      ValueError: see `encode`; and for a name without a word, or no templates.
    """
    if not templates:
        raise ValueError("templates must be at least one, got none")
    for name in (*styles, *objects):
        if not _words(name):
            raise ValueError(f"a style or an object must be named by a word, got {name!r}")
    shape = (len(styles), len(objects), len(templates), vocabulary.length)
    found = Prompts(np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, bool))
    for row, style in enumerate(styles):
        for column, name in enumerate(objects):
            for number, template in enumerate(templates):
                place = row, column, number
                words, roles = _filled(template, {"style": style, "object": name})
                found.tokens[place] = _tokens(vocabulary, words)
                for role, where in (("style", found.style), ("object", found.object)):
                    where[place][1 : 1 + len(roles)] = [own == role for own in roles]
    return found


def naming(templates: Sequence[str], *roles: str) -> list[int]:
    """Which of the templates name all of the roles, of 'style' and 'object'.

    Examples:
      >>> naming(TEMPLATES, "style"), naming(TEMPLATES, "style", "object")
      ([0, 1, 3], [0, 1])
    """
    checks.among(roles=(roles, ("style", "object")))
    return [
        number
        for number, template in enumerate(templates)
        if all(f"{{{role}}}" in template for role in roles)
    ]


def template_prompts(
    vocabulary: Vocabulary,
    style: str | None = None,
    object: str | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> np.ndarray:
    """`[T, L]`: what asks for a style, an object or both, and for nothing else.

    Of the templates those that name what is given and no more: the conditions of a request that
    has no images.

    Raises:
      ValueError: if neither is given, no template is left, or a word is unknown.

    Examples:
      >>> words = vocabulary(["neon"], ["three"])
      >>> decode(words, template_prompts(words, style="neon"))
      ['neon style']
    """
    given = {k: v for k, v in (("style", style), ("object", object)) if v is not None}
    if not given:
        raise ValueError("a style or an object must be given, got neither")
    roles = {"style", "object"}
    unnamed = {number for role in roles - set(given) for number in naming(templates, role)}
    chosen = [templates[i] for i in naming(templates, *given) if i not in unnamed]
    if not chosen:
        raise ValueError(
            f"templates must have one that names {sorted(given)} and no more, got {list(templates)}"
        )
    return encode(vocabulary, [template.format(**given) for template in chosen])


def paraphrased(rng: Array, example: Batch) -> Batch:
    """The example with one of its `captions` `[P, L]` as its `condition` `[L]`, for training.

    An augmentation, see `tasks.augmented`. `concepts` `[P, L]` becomes `concept` alike, and so do
    the columns of views, `anchor.captions` in the same place of its P. What has no captions stays
    as it is.
    """
    if "captions" not in example:
        return example
    row = jax.random.randint(rng, (), 0, example["captions"].shape[0])
    drawn = {}
    for name, values in example.items():
        view, dot, column = name.rpartition(".")
        if column in DRAWN:
            drawn[view + dot + DRAWN[column]] = values[row]
    return {**example, **drawn}


def _words(text: str) -> list[str]:
    split = text.lower().replace("_", " ").split()
    return [word for word in (own.strip(_PUNCTUATION) for own in split) if word]


def _filled(template: str, names: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The words of a template, and of each which of the names it is of, '' of none."""
    words, roles = [], []
    for piece in template.split():
        role = next((own for own in names if f"{{{own}}}" in piece), "")
        own = _words(piece.format(**names))
        words += own
        roles += [role] * len(own)
    return words, roles


def _tokens(vocabulary: Vocabulary, words: Sequence[str]) -> list[int]:
    known = {word: place for place, word in enumerate(vocabulary.words)}
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(
            f"a caption must be of the words {vocabulary.words[2:]}, got {unknown[0]!r}"
            f"{checks.near(unknown[:1], vocabulary.words)}"
        )
    room = vocabulary.length - 2
    if len(words) > room:
        raise ValueError(f"a caption must have at most {room} words, got {' '.join(words)!r}")
    return [0, *(known[word] for word in words), *[1] * (vocabulary.length - 1 - len(words))]
