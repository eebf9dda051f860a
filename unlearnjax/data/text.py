"""Questions and answers as right-padded tokens, with what of them is answer.

A causal model needs no attention mask where padding is on the right, and the column `answer` keeps
padding and the question out of every sum. There are no sentinel labels.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data.validation import listed

if TYPE_CHECKING:  # its room stands above this one
    from unlearnjax.language.tokens import Tokenizer


class Template(NamedTuple):
    """What stands around a question and its answer; the texts of special tokens are these tokens.

    All that looks like one, `<...>` without a space, must be one of the tokenizer's.

    `question_start question question_end answer_start`, after a `bos` where the tokenizer has one,
    is the prompt, encoded as one text; `answer answer_end` are encoded by themselves, followed by
    an `eos`. So where the answer begins does not depend on what it is.
    """

    question_start: str = ""
    question_end: str = "<sep>"
    answer_start: str = ""
    answer_end: str = ""


TRAINED = Template()
# Of models that were trained to chat, and a plain one for those that were not.
TEMPLATES = {
    "trained": TRAINED,
    "plain": Template("Question: ", "\n", "Answer: "),
    "llama2": Template("[INST] ", " [/INST]"),
    "llama3": Template(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "qwen": Template("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
}


# What errors call the texts of a view.
_CALLED = {"perturbed": "perturbed answer"}


class Pair(NamedTuple):
    """A question with its answer, and what audits ask beside it.

    Attributes:
      prompt, answer: the texts.
      paraphrase: the answer in other words.
      perturbed: K wrong answers, in the words of the paraphrase.
      identity: of whom it is, the same number for one author.
    """

    prompt: str
    answer: str
    paraphrase: str | None = None
    perturbed: tuple[str, ...] = ()
    identity: int = 0


class Encoded(NamedTuple):
    """Pairs as arrays.

    Attributes:
      data: `inputs`, `targets` `[N, T]` int32, `answer` `[N, T]` float32 (1 where the target is a
        token of the answer, or its `eos`), `condition` `[N, P]` int32 (the prompt),
        `condition_length` `[N]`, `index` `[N]`, `identity` `[N]`; and the views `paraphrase.*` and
        `refusal.*`, of which each has `inputs`, `targets` and `answer`, where they were given.
      perturbed: `perturbed.inputs`, `.targets`, `.answer` `[N, K, T]`, row by row beside `data`;
        empty where none were given.
      truncated: `{view: rows}` whose answer did not fit and is cut, without its `eos`; that of the
        answers themselves is 'answer'.
    """

    data: dict[str, np.ndarray]
    perturbed: dict[str, np.ndarray]
    truncated: dict[str, np.ndarray]


def encoded(
    tokenizer: "Tokenizer",
    pairs: Sequence[Pair],
    template: Template = TRAINED,
    *,
    length: int | None = None,
    prompt_length: int | None = None,
    refusals: Sequence[str] = (),
    num_refusals: int = 1,
    rng: np.random.Generator | None = None,
) -> Encoded:
    """Pairs as a model reads them.

    Args:
      tokenizer: see `language.tokens`.
      pairs: N of them. Those with a paraphrase, and with perturbed answers, are all of them or
        none; all have the same number K of perturbed answers.
      template: what stands around them.
      length: T; default: as long as the longest of all views needs.
      prompt_length: P; default: the longest prompt.
      refusals: answers that say nothing. Each pair gets some of them at random, in the view
        `refusal`.
      num_refusals: how many; of more than one, which then differ, its columns are `[N, K, T]`.
      rng: of that choice; needed for refusals.

    Raises:
      ValueError: for a pair of which no token of the answer fits, or that has none; for one that is
        not like the others, or not of texts. It names the first ones. For a template with a mark
        that is no special token of the tokenizer, and for fewer refusals than a pair is to get.
    """
    if not len(pairs):
        raise ValueError("pairs must hold at least one question and answer, got none")
    _refuse([not isinstance(pair, Pair) for pair in pairs], "pairs must be of Pair, got others")
    _refuse([not isinstance(pair.prompt, str) for pair in pairs], "prompt must be text, got others")
    checks.not_text(refusals=refusals)
    _refuse_texts("refusals", refusals)
    if refusals and rng is None:
        raise ValueError("rng must be given where there are refusals, to draw one for each pair")
    prompts = [prompt(tokenizer, template, pair.prompt) for pair in pairs]
    _refuse([not own for own in prompts], "prompt must have a token without a bos, got none")
    answers = {"answer": [pair.answer for pair in pairs]}
    if _all_have([pair.paraphrase is not None for pair in pairs], "a paraphrase"):
        answers["paraphrase"] = [pair.paraphrase for pair in pairs]
    if refusals:
        checks.whole(num_refusals=num_refusals)
        checks.within(1, len(refusals), num_refusals=num_refusals)
        answers["refusal"] = _some(refusals, len(pairs), num_refusals, rng)
    wrong = _perturbed(pairs)
    if wrong[0]:
        answers["perturbed"] = [*itertools.chain(*wrong)]
    counts = {view: len(texts) // len(pairs) for view, texts in answers.items()}
    tokens = {
        view: _answers(tokenizer, template, texts, _CALLED.get(view, view), counts[view])
        for view, texts in answers.items()
    }
    beside = {view: [own for own in prompts for _ in range(counts[view])] for view in tokens}
    if length is None:
        fits = ((own, said) for v in tokens for own, said in zip(beside[v], tokens[v], strict=True))
        length = max(len(own) + len(said) - 1 for own, said in fits)
    data, perturbed, truncated = {}, {}, {}
    for view, own in tokens.items():
        columns, cut = _rows(beside[view], own, length, tokenizer.pad)
        truncated[view] = np.unique(cut // counts[view])
        begin = "" if view == "answer" else f"{view}."
        stacked = view == "perturbed" or counts[view] > 1
        shape = (len(pairs), counts[view], length) if stacked else (len(pairs), length)
        into = perturbed if view == "perturbed" else data
        into |= {f"{begin}{name}": value.reshape(shape) for name, value in columns.items()}
    data |= _conditions(prompts, prompt_length, tokenizer.pad)
    data["index"] = np.arange(len(pairs), dtype=np.int32)
    data["identity"] = np.array([pair.identity for pair in pairs], np.int32)
    return Encoded(data, perturbed, truncated)


def prompt(tokenizer: "Tokenizer", template: Template, text: str) -> list[int]:
    """The tokens of `bos`, where the tokenizer has one, and a question in its template.

    Raises:
      ValueError: for a template with a mark that is no special token of the tokenizer.
    """
    for field, stands in template._asdict().items():
        spelled = " ".join(_split(stands, tokenizer.specials)[::2])
        if unknown := re.search(r"<[^<>\s]+>", spelled):
            raise ValueError(
                f"template.{field} must have special tokens of the tokenizer, among "
                f"{sorted(tokenizer.specials)}, got {unknown[0]!r}"
            )
    begin = [] if tokenizer.bos is None else [tokenizer.bos]
    marks = (template.question_end, template.answer_start)
    own = [(template.question_start, True), (text, False), *((mark, True) for mark in marks)]
    return [*begin, *_encode(tokenizer, own)]


def report(truncated: Mapping[str, np.ndarray], number: int) -> str:
    """A line on answers that were cut, of `number` pairs; '' where none was.

    Examples:
      >>> report({"answer": np.array([3, 5])}, 40)
      'cut to fit: 2 of 40 (answer)'
    """
    parts = [f"{len(rows)} of {number} ({view})" for view, rows in truncated.items() if len(rows)]
    return f"cut to fit: {', '.join(parts)}" if parts else ""


def _encode(tokenizer: "Tokenizer", parts: Iterable[tuple[str, bool]]) -> list[int]:
    """Texts as one, in which special tokens are those of the texts marked so."""
    pieces = [""]  # text, special token, text, ...
    for text, marked in parts:
        found = _split(text, tokenizer.specials) if marked else [text]
        pieces[-1] += found[0]
        pieces.extend(found[1:])
    tokens = []
    for number, piece in enumerate(pieces):
        if number % 2:
            tokens.append(tokenizer.specials[piece])
        elif piece:
            tokens.extend(tokenizer.encode(piece))
    return tokens


def _split(text: str, specials: Iterable[str]) -> list[str]:
    """The text with the special tokens in it at odd places; of several, the first and longest."""
    found = [(text.find(own), -len(own), own) for own in specials if own and own in text]
    if not found:
        return [text]
    _, _, first = min(found)
    before, _, after = text.partition(first)
    return [before, first, *_split(after, specials)]


def _answers(
    tokenizer: "Tokenizer", template: Template, texts: Iterable[str], view: str, count: int = 1
) -> list[list[int]]:
    texts = list(texts)
    _refuse_texts(view, texts, count)
    parts = lambda text: [(text, False), (template.answer_end, True)]
    return [[*_encode(tokenizer, parts(text)), tokenizer.eos] for text in texts]


def _some(refusals: Sequence[str], number: int, count: int, rng: np.random.Generator) -> list[str]:
    """`count` of them for each of `number` pairs, one behind another."""
    if count == 1:
        return [refusals[own] for own in rng.integers(len(refusals), size=number)]
    return [refusals[own] for _ in range(number) for own in rng.permutation(len(refusals))[:count]]


def _perturbed(pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    flat = [
        isinstance(pair.perturbed, str) or not isinstance(pair.perturbed, Sequence | np.ndarray)
        for pair in pairs
    ]
    _refuse(flat, "perturbed answers must be several texts for each pair, got others")
    count = len(pairs[0].perturbed)
    other = [len(pair.perturbed) != count for pair in pairs]
    _refuse(other, f"perturbed answers must be as many for each pair, {count}, got others")
    return [tuple(pair.perturbed) for pair in pairs]


def _all_have(having: Sequence[bool], what: str) -> bool:
    if any(having):
        _refuse([not own for own in having], f"pairs must all have {what} or none, got none")
    return all(having)


def _rows(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    length: int,
    pad: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`inputs`, `targets`, `answer` `[n, length]`; and of which rows the answer is cut."""
    checks.whole(length=length)
    checks.at_least(1, length=length)
    filled = [len(own) > length for own in prompts]
    _refuse(filled, f"length must leave room for the answer, but {length} does not")
    inputs = np.full((len(prompts), length), pad, np.int32)
    targets, answer = inputs.copy(), np.zeros(inputs.shape, np.float32)
    cut = []
    for row, (own, said) in enumerate(zip(prompts, answers, strict=True)):
        both = np.array([*own, *said], np.int32)[: length + 1]
        end = len(both) - 1
        inputs[row, :end], targets[row, :end] = both[:-1], both[1:]
        answer[row, len(own) - 1 : end] = 1
        if len(own) + len(said) > length + 1:
            cut.append(row)
    columns = {"inputs": inputs, "targets": targets, "answer": answer}
    return columns, np.array(cut, np.int64)


def _conditions(prompts: Sequence[Sequence[int]], length: int | None, pad: int) -> dict:
    lengths = np.array([len(own) for own in prompts], np.int32)
    length = int(lengths.max()) if length is None else length
    checks.whole(prompt_length=length)
    _refuse(lengths > length, f"prompt_length must hold every prompt, but {length} does not")
    condition = np.full((len(prompts), length), pad, np.int32)
    for row, own in enumerate(prompts):
        condition[row, : len(own)] = own
    return {"condition": condition, "condition_length": lengths}


def _refuse_texts(name: str, texts: Sequence[str], count: int = 1) -> None:
    _refuse([not isinstance(own, str) for own in texts], f"{name} must be text, got others", count)
    _refuse([not own.strip() for own in texts], f"{name} must have text, got none", count)


def _refuse(bad: Sequence[bool], message: str, count: int = 1) -> None:
    """Raises `ValueError` if there are bad rows, of which `count` belong to a pair."""
    rows = np.unique(np.flatnonzero(bad) // count)
    if rows.size:
        raise ValueError(f"{message} in row {listed(rows)}")
