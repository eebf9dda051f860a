"""TOFU, questions and answers on 200 fictitious authors, read from files.

Maini, Feng, Schwarzschild, Lipton, Kolter, "TOFU: A Task of Fictitious Unlearning for LLMs", COLM
2024. The files are those of huggingface.co/datasets/locuslab/TOFU: one JSON object a line. There is
no network here; `huggingface-cli download locuslab/TOFU --repo-type dataset --local-dir DIR` gets
them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearnjax.data.text import Pair

PER_AUTHOR = 20  # questions on an author, in a row
FORGET = ("forget01", "forget05", "forget10")


class Tofu(NamedTuple):
    """TOFU in memory.

    Attributes:
      pairs: all of them, `retain90` and after it `forget10`; 4,000 in TOFU as published. `identity`
        numbers the authors in this order, 180 to 199 being those of `forget10`. A pair has its
        paraphrase and its perturbed answers where a file of perturbed answers has it.
      requests: for each of `FORGET` that there is, the rows in `pairs` of each request in turn: the
        published forget set, and, where the file numbers its rows with a `task_id`, later ones.
      real_authors, world_facts: true questions, with three perturbed answers each and without
        paraphrases; empty where the file is missing.
      refusals: answers that say nothing; empty where `idontknow` is missing.
    """

    pairs: list[Pair]
    requests: dict[str, tuple[np.ndarray, ...]]
    real_authors: list[Pair]
    world_facts: list[Pair]
    refusals: tuple[str, ...]


def load(directory: str | os.PathLike) -> Tofu:
    """Reads TOFU.

    Args:
      directory: with the files `retain90` and `forget10`, and as far as they are there `forget01`,
        `forget05`, `NAME_perturbed` of these and of `retain`, `real_authors_perturbed`,
        `world_facts_perturbed` and `idontknow`; with or without the suffix `.json` or `.jsonl`
        (`idontknow`: `.txt`, too).

    Raises:
      ValueError: for a file that is missing, empty or no such JSON, which it names with the line;
        and for a forget set that is no part of all pairs.
    """
    directory = Path(directory)
    retain, forget = (_rows(directory, name) for name in ("retain90", "forget10"))
    published = [own for own in forget if _task(own) == _task(forget[0])]
    rows = [*retain, *published]
    shift = -(-len(retain) // PER_AUTHOR)
    authors = [
        *(number // PER_AUTHOR for number in range(len(retain))),
        *(shift + number // PER_AUTHOR for number in range(len(published))),
    ]
    beside = {}
    for name in ("retain_perturbed", *(f"{name}_perturbed" for name in FORGET)):
        found = _rows(directory, name, required=False, fields=("paraphrased_answer",))
        beside |= {_key(own): own for own in found if "perturbed_answer" in own}
    pairs = [
        _pair({**own, **beside.get(_key(own), {})}, author)
        for own, author in zip(rows, authors, strict=True)
    ]
    places = {_key(own): number for number, own in enumerate(rows)}
    requests = {}
    for name in FORGET:
        found = forget if name == "forget10" else _rows(directory, name, required=False)
        if found:
            requests[name] = _requests(found, places, directory / name)
    return Tofu(
        pairs,
        requests,
        *(
            [_pair(own, 0) for own in _rows(directory, f"{name}_perturbed", required=False)]
            for name in ("real_authors", "world_facts")
        ),
        _refusals(directory),
    )


def _requests(
    found: Sequence[dict], places: dict[tuple[str, str], int], path: Path
) -> tuple[np.ndarray, ...]:
    unknown = [own["question"] for own in found if _key(own) not in places]
    if unknown:
        raise ValueError(
            f"{path} must be a part of retain90 and forget10, but {len(unknown)} of its rows are "
            f"not, the first {unknown[0]!r}"
        )
    tasks = dict.fromkeys(_task(own) for own in found)
    return tuple(
        np.array([places[_key(own)] for own in found if _task(own) == task]) for task in tasks
    )


def _key(row: dict) -> tuple[str, str]:
    return row["question"], row["answer"]  # one question is asked of two authors


def _task(row: dict) -> str:
    return str(row.get("task_id", ""))


def _pair(row: dict, author: int) -> Pair:
    wrong = tuple(row.get("perturbed_answer", ()))
    return Pair(row["question"], row["answer"], row.get("paraphrased_answer"), wrong, author)


def _refusals(directory: Path) -> tuple[str, ...]:
    path = _path(directory, "idontknow", (".txt", ""))
    if path is None:
        return ()
    return tuple(line.strip() for line in _text(path).split("\n") if line.strip())


def _path(directory: Path, name: str, suffixes: Sequence[str] = ("",)) -> Path | None:
    candidates = (directory / f"{name}{suffix}" for suffix in (".json", ".jsonl", *suffixes))
    return next((path for path in candidates if path.is_file()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _rows(
    directory: Path, name: str, *, required: bool = True, fields: Sequence[str] = ()
) -> list[dict]:
    """The objects of a file, checked; none where it is missing and not required."""
    path = _path(directory, name)
    if path is None:
        if required:
            there = "which has no such file" if directory.is_dir() else "which is no directory"
            raise ValueError(f"TOFU must have {name}.json in {directory}, {there}")
        return []
    # Not `splitlines`, which also ends a line at characters that JSON has within a text.
    lines = enumerate(_text(path).split("\n"), 1)
    rows = [_row(line, f"{path}, line {number},", fields) for number, line in lines if line.strip()]
    if not rows:
        raise ValueError(f"{path} must have a JSON object on every line, got none")
    return rows


def _row(line: str, where: str, fields: Sequence[str]) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} must be a JSON object: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(row).__name__}")
    for field in ("question", "answer", *fields):
        if not _is_text(row.get(field)):
            raise ValueError(f"{where} must have text as {field!r}, got {row.get(field)!r}")
    told, wrong = row.get("paraphrased_answer"), row.get("perturbed_answer", ["none given"])
    if told is not None and not _is_text(told):
        raise ValueError(f"{where} must have text as 'paraphrased_answer', got {told!r}")
    if not isinstance(wrong, list) or not wrong or not all(map(_is_text, wrong)):
        raise ValueError(f"{where} must have a list of texts as 'perturbed_answer', got {wrong!r}")
    return row


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
