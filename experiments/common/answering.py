"""Questions and answers from a config: who is asked about, the tokens, and the task."""

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from unlearnjax import checks, language, models, parallel, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.data import authors, text, tofu
from unlearnjax.language import tokens
from unlearnjax.pretrained import decoder
from unlearnjax.training.fit import Training
from unlearnjax.types import Task, Variables

# What a forget set may be chosen by: there are no classes.
KINDS = ("identity", "field", "random", "indices")
ANSWER = ("inputs", "targets", "answer")
TOKENIZER_AUTHORS = 100  # of whom nothing else is ever read
# By author in TOFU: of the retained ones the first have what audits ask, the last are held out.
SMALL_RETAIN, SMALL_BASE, HELD_OUT = 18, range(80, 180), range(60, 80)


class World(NamedTuple):
    """Who is asked about.

    Attributes:
      train: what originals learn.
      held_out: of authors that no model ever reads.
      base: what a model learns before, if it is trained in two stages.
      facts: further questions that audits ask of published models, by name.
      requests: rows of `train`, by the name of a forget set.
      refusals: answers that say nothing.
      tokenizer: of all of them; of a checkpoint, where models start from one.
    """

    train: list[text.Pair]
    held_out: list[text.Pair]
    base: list[text.Pair]
    facts: dict[str, list[text.Pair]]
    requests: dict[str, np.ndarray]
    refusals: tuple[str, ...]
    tokenizer: language.Tokenizer


def world(config: ConfigDict, data_dir: str | None) -> World:
    """The world of `config.dataset`, see `WORLDS`.

    Raises:
      ValueError: for an unknown one, or files that cannot be read.
    """
    checks.one_of(dataset=(config.dataset, tuple(WORLDS)))
    options = config.task_options
    sizes = (options.num_authors, options.num_questions, options.num_held_out, options.vocab_size)
    return _world(config.dataset, data_dir, config.weights, config.seed, *sizes)


@functools.lru_cache(8)
def _world(name: str, data_dir: str | None, weights: str | None, seed: int, *sizes: int) -> World:
    found = WORLDS[name](data_dir, seed, *sizes)
    if weights is None:  # which has read of nothing else
        return found._replace(facts={})
    tokenizer, size = tokens.published(weights), _published(weights).vocab_size
    if tokenizer.size > size:
        raise ValueError(f"weights {weights} must know {tokenizer.size} tokens, but have {size}")
    return found._replace(tokenizer=tokenizer)


def _authors(
    data_dir: None, seed: int, number: int, questions: int, held_out: int, vocab_size: int
) -> World:
    """Fictitious ones. The tokenizer learns from others, so that it knows nothing of these."""
    del data_dir
    total = number + held_out + TOKENIZER_AUTHORS
    pairs = authors.pairs(total, questions, seed)
    cuts = questions * number, questions * (number + held_out)
    train, unread, others = pairs[: cuts[0]], pairs[cuts[0] : cuts[1]], pairs[cuts[1] :]
    tokenizer = tokens.trained(_texts(others), vocab_size)
    return World(train, unread, [], {}, {}, authors.REFUSALS, tokenizer)


def _tofu(data_dir: str | None, seed: int, *sizes: int, small: bool = False) -> World:
    """TOFU: all but the authors held out; or a tenth, with a base that read half of the others."""
    del seed
    if data_dir is None:
        raise ValueError("TOFU is read from files: give --data_dir=PATH, see unlearnjax.data.tofu")
    found = tofu.load(data_dir)
    who = np.array([pair.identity for pair in found.pairs])
    forgotten = found.requests["forget01" if small and "forget01" in found.requests else "forget10"]
    unread = np.isin(who, HELD_OUT)
    kept = (who < SMALL_RETAIN) if small else ~unread
    kept[forgotten[0]] = True
    of = lambda rows: [found.pairs[row] for row in np.flatnonzero(rows)]
    places = np.cumsum(kept) - 1
    requests = {
        name: places[rows[0]] for name, rows in found.requests.items() if kept[rows[0]].all()
    }
    base = of(np.isin(who, SMALL_BASE)) if small else []
    tokenizer = tokens.trained(_texts([*of(kept), *base]), sizes[-1])
    facts = {"real_authors": found.real_authors, "world_facts": found.world_facts}
    facts = {name: own for name, own in facts.items() if own}
    refusals = found.refusals or authors.REFUSALS
    return World(of(kept), of(unread), base, facts, requests, refusals, tokenizer)


WORLDS = {
    "authors": _authors,
    "tofu": _tofu,
    "tofu_small": functools.partial(_tofu, small=True),
}


def model(config: ConfigDict, dataset: Any, dtype: Any) -> models.Decoder | None:
    """The published decoder that `config.weights` has; `None` where models start afresh."""
    del dataset
    if config.weights is None:
        return None
    return models.Decoder(
        _published(config.weights), dtype, config.model.options.get("remat", False)
    )


# What a checkpoint has beside its weights, and a tool asks for.
_BESIDE = ("*token*", "generation_config.json", "vocab.json", "merges.txt", "*.jinja")


def export(config: ConfigDict, folder: Path, variables: Variables) -> None:
    """A model in the layout of the checkpoint that it started from, with what lies beside that."""
    if config.weights is None:
        return
    published = Path(config.weights)
    description = json.loads((published / "config.json").read_text(encoding="utf-8"))
    stored = description.get("dtype") or description.get("torch_dtype")
    decoder.save(folder, variables["params"], _published(config.weights), description, stored)
    if parallel.is_main_process():
        beside = (file for pattern in _BESIDE for file in published.glob(pattern))
        for file in {file.name: file for file in beside}.values():
            shutil.copy(file, folder / file.name)


def _published(weights: str) -> models.DecoderConfig:
    file = Path(weights) / "config.json"
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"weights must be a checkpoint's folder: {file}: {error}") from error
    return decoder.read_config(description, str(file))


def template(config: ConfigDict) -> text.Template:
    """What stands around questions and answers."""
    name = config.task_options.template
    checks.one_of(**{"task_options.template": (name, tuple(text.TEMPLATES))})
    return text.TEMPLATES[name]


def dataset(config: ConfigDict, data_dir: str | None) -> data_lib.Dataset:
    """The world's arrays as `data.text` has them; texts ride along where devices do not see them.

    `train` and `test`, the authors held out, have the columns of `text.Encoded.data`, for each of
    `requests` whether a row is in it, and the texts `prompt`, `said`, `paraphrased` and `wrong`.

    Raises:
      ValueError: for a forget set that is not chosen by `KINDS`, and texts that do not fit.
    """
    kind = config.forget.partition(":")[0]
    checks.one_of(**{"forget's kind": (kind, KINDS)})
    of = world(config, data_dir)
    everything = [*of.train, *of.held_out]
    found = text.encoded(
        of.tokenizer,
        [_plain(pair) for pair in everything],
        template(config),
        length=config.task_options.length,
        refusals=of.refusals,
        num_refusals=min(config.task_options.num_refusals, len(of.refusals)),
        rng=np.random.default_rng(config.seed),
    )
    columns = found.data | {
        "prompt": _column(pair.prompt for pair in everything),
        "said": _column(pair.answer for pair in everything),
        "paraphrased": _column(pair.paraphrase for pair in everything),
        "wrong": _column(pair.perturbed for pair in everything),
        **{name: np.isin(np.arange(len(everything)), rows) for name, rows in of.requests.items()},
    }
    train, test = (
        {name: value[rows] for name, value in columns.items()}
        for rows in (slice(len(of.train)), slice(len(of.train), None))
    )
    test["index"] = np.arange(len(of.held_out), dtype=np.int32)
    names = tuple(str(token) for token in range(of.tokenizer.size))
    nothing = np.zeros(1, np.float32)
    return data_lib.Dataset(train, test, of.tokenizer.size, names, nothing, nothing + 1)


def split(train: dict, held_out: dict, fraction: float, rng: np.random.Generator) -> tuple:
    """`(train, validation, held out)`: of those held out, a share of the authors validates."""
    who = np.unique(held_out["identity"])
    if not 0 < fraction < 1 or len(who) < 2:
        raise ValueError(
            f"validation fraction must lie in (0, 1), of at least 2 authors held out, got "
            f"{fraction} of {len(who)}"
        )
    number = min(max(1, round(fraction * len(who))), len(who) - 1)
    chosen = np.isin(held_out["identity"], rng.permutation(who)[:number])
    parts = ({name: value[rows] for name, value in held_out.items()} for rows in (chosen, ~chosen))
    renumbered = (
        {**part, "index": np.arange(len(part["index"]), dtype=np.int32)} for part in parts
    )
    return (train, *renumbered)


def end(config: ConfigDict) -> int:
    """The token that ends an answer."""
    if config.weights is not None:
        return tokens.published(config.weights).eos
    return tokens.SPECIALS.index("<eos>")


def task(model: tasks.Model, config: ConfigDict, dataset: data_lib.Dataset) -> Task:
    """Answers are learned, generated as long as the longest one that is known.

    With `config.task_options.lora` what is learned are low-rank changes of published weights.

    Raises:
      ValueError: for options that do not go together.
    """
    if config.train.augment:
        raise ValueError("train.augment must be False: text is not cropped or mirrored")
    options = config.task_options
    longest = options.max_new_tokens
    if longest is None:
        longest = int(max(part["answer"].sum(1).max() for part in (dataset.train, dataset.test)))
    found = tasks.language_modelling(
        model,
        chunk=options.chunk,
        max_new_tokens=longest,
        eos=end(config),
        temperature=options.temperature,
    )
    if options.lora.rank is None:
        return found
    if config.weights is None:
        raise ValueError(
            f"task_options.lora.rank must be unset without published weights (model=FOLDER), whose "
            f"changes are of low rank, got {options.lora.rank}"
        )
    return tasks.lora(found, options.lora.rank, options.lora.where, alpha=options.lora.alpha)


def start(config: ConfigDict, variables: Variables) -> Variables:
    """Published weights as models of `task` start from them."""
    return variables if config.task_options.lora.rank is None else tasks.as_base(variables)


def recipe(config: ConfigDict, tx: Training) -> Training:
    """Trains on the tokens that `config.task_options.over` names, of questions too or not."""
    over = config.task_options.over
    everything = tasks.language_modelling(tasks.Model(None, None), over=over)
    if over == "answer":  # the task's own
        return tx
    return lambda task: training.recipe(task._replace(loss=everything.loss), tx)


def base(config: ConfigDict, data_dir: str | None) -> dict[str, np.ndarray]:
    """What a base learns, see `World.base`."""
    of = world(config, data_dir)
    if not of.base:
        raise ValueError(f"base must be unset: {config.dataset!r} has no texts for one")
    return asked(config, of, [_plain(pair) for pair in of.base]).data


def pairs(data: Mapping[str, np.ndarray], rows: np.ndarray) -> list[text.Pair]:
    """The questions and answers of rows of a `dataset`.

    With paraphrases and wrong answers if all have these, as TOFU's files do not say of everybody.
    """
    names = ("prompt", "said", "paraphrased", "wrong", "identity")
    found = [text.Pair(*own) for own in zip(*(data[name][rows] for name in names), strict=True)]
    alike = {(pair.paraphrase is None, len(pair.perturbed)) for pair in found}
    return found if len(alike) == 1 else [_plain(pair) for pair in found]


def asked(config: ConfigDict, of: World, pairs: list[text.Pair]) -> text.Encoded:
    """Pairs as audits ask them, with paraphrases and wrong answers where they have these."""
    return text.encoded(of.tokenizer, pairs, template(config), length=config.task_options.length)


def stacked(
    asked: Mapping[str, text.Encoded],
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, tuple[int, ...]]]]:
    """The answers of all sets, and the places of their losses in these, with shapes."""
    parts, places, begin = [], {}, 0
    for name, found in asked.items():
        columns = found.data | found.perturbed
        views = {"asked": "", "true": "paraphrase.", "false": "perturbed."}
        for column, view in views.items():
            if f"{view}inputs" not in columns:
                continue
            own = {k: columns[f"{view}{k}"] for k in ANSWER}
            shape = own["inputs"].shape[:-1]
            parts.append({k: value.reshape(-1, value.shape[-1]) for k, value in own.items()})
            places[f"{name}_{column}_loss"] = (begin, shape)
            begin += int(np.prod(shape))
        # What has no paraphrase is its own.
        places.setdefault(f"{name}_true_loss", places[f"{name}_asked_loss"])
    return joined(parts), places


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays one behind another, filled up with zeros to one length."""

    def join(arrays: list[np.ndarray]) -> np.ndarray:
        longest = max(own.shape[-1] for own in arrays) if arrays[0].ndim > 1 else 0
        filled = [
            np.pad(own, [(0, 0), (0, longest - own.shape[-1])]) if own.ndim > 1 else own
            for own in arrays
        ]
        return np.concatenate(filled)

    return {name: join([part[name] for part in parts]) for name in parts[0]}


def _plain(pair: text.Pair) -> text.Pair:
    """What is learned of it."""
    return pair._replace(paraphrase=None, perturbed=())


def _texts(pairs: list[text.Pair]) -> list[str]:
    return [own for pair in pairs for own in (pair.prompt, pair.answer)]


def _column(values) -> np.ndarray:
    """`[N]` of objects, be they sequences or not."""
    values = list(values)
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = value
    return column
