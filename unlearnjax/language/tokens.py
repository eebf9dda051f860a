"""Text to tokens and back: a published checkpoint's tokenizer, or one trained on the text at hand.

Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016;
over bytes as in Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. The
library `tokenizers` does the work; it is imported where it is used.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearnjax import checks

SPECIALS = ("<pad>", "<bos>", "<eos>", "<sep>")  # of a trained tokenizer, numbered from 0
SMALLEST = len(SPECIALS) + 256  # every byte is a token


class Tokenizer(NamedTuple):
    """What text is to a model.

    Attributes:
      encode: `text -> token ids`; nothing is added, and no text becomes a special token.
      decode: `token ids -> text`, without special tokens.
      size: V, one above the largest id; a model may have room for more.
      pad, bos, eos: ids of what fills up, begins and ends a text; `bos` is `None` where nothing
        begins it, as for Qwen and OLMo.
      specials: ids of all special tokens, by their text. Templates name them so, see `data.text`.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    size: int
    pad: int
    bos: int | None
    eos: int
    specials: Mapping[str, int] = {}


def trained(texts: Iterable[str], size: int = 1024) -> Tokenizer:
    """Byte-level BPE of the given texts, the same for the same texts in any order.

    Its alphabet are all bytes, so that every text comes back: `decode(encode(text)) == text`.

    Args:
      texts: to learn from. What a tokenizer has seen is in its merges: where it must know nothing
        of what is forgotten, it is trained on other text.
      size: V at most, at least `SMALLEST`; fewer where the texts have no more pairs to merge.

    Raises:
      ValueError: for a size below that, or no text.
      ImportError: without the library tokenizers.
    """
    checks.whole(size=size)
    checks.at_least(SMALLEST, size=size)
    checks.not_text(texts=texts)
    texts = sorted(texts)
    if not any(texts):
        raise ValueError("texts must have something to learn from, got none, or empty ones")
    library = _library()
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return _tokenizer(model, dict(zip(("pad", "bos", "eos"), SPECIALS[:3], strict=True)))


def published(
    path: str | os.PathLike,
    *,
    pad: str | None = None,
    bos: str | None = None,
    eos: str | None = None,
) -> Tokenizer:
    """The tokenizer of a checkpoint in the Hugging Face layout.

    Args:
      path: a folder with a `tokenizer.json`, or that file.
      pad, bos, eos: texts of these tokens. Default: what `tokenizer_config.json`,
        `special_tokens_map.json` or `config.json` beside the file say, the first that does. A
        checkpoint without a padding token is padded with its `eos`: padding is masked everywhere.
        One that names no `bos`, or `null` as its `bos_token`, has none, and its texts begin as they
        are.

    Raises:
      ValueError: if there is no such file, it cannot be read, or a token is not known; it names the
        file and the field.
      ImportError: without the library tokenizers.
    """
    asked = {"pad": pad, "bos": bos, "eos": eos}
    checks.name(**{name: given for name, given in asked.items() if given is not None})
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} must have a tokenizer.json, the tokenizer of a checkpoint")
    library = _library()
    try:
        model = library.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{file} cannot be read: {error}") from error
    # Text is cut and filled up by `data.text`, whatever the file was saved with.
    model.no_truncation()
    model.no_padding()
    beside = {file.parent / name: _read(file.parent / name) for name in _BESIDE}
    names = {name: given or _said(model, beside, name) for name, given in asked.items()}
    names["pad"] = names["pad"] or names["eos"]
    return _tokenizer(model, names, str(file))


_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "config.json")


def _tokenizer(model: Any, names: Mapping[str, str | None], where: str = "") -> Tokenizer:
    ids = {}
    for name, text in names.items():
        ids[name] = None if text is None else model.token_to_id(text)
        if ids[name] is None and not (name == "bos" and text is None):
            what = "none is named beside it" if text is None else f"it has no token {text!r}"
            raise ValueError(f"{name} must be a token of {where}, but {what}; give {name}='TOKEN'")
    vocabulary = model.get_vocab(with_added_tokens=True)
    added = model.get_added_tokens_decoder()
    specials = {token.content: number for number, token in added.items() if token.special}
    model.encode_special_tokens = True  # as the text that they are
    return Tokenizer(
        encode=lambda text: model.encode(text, add_special_tokens=False).ids,
        decode=lambda tokens: model.decode([int(token) for token in tokens]),
        size=max(vocabulary.values()) + 1,
        **ids,
        specials=specials,
    )


def _read(file: Path) -> dict:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} must be a JSON object, got {type(found).__name__}")
    return found


def _said(model: Any, files: Mapping[Path, dict], name: str) -> str | None:
    """The text of a token by the first file that names one."""
    for file, own in files.items():
        text = _named(model, own, name, file)
        # Qwen's `config.json` has an id all the same, which nothing begins with.
        if text or (name == "bos" and "bos_token" in own):
            return text
    return None


def _named(model: Any, own: dict, name: str, file: Path) -> str | None:
    """The text of a token by what a file says: itself, a record with it, or its id."""
    token = own.get(f"{name}_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None:
        if not isinstance(token, str):
            raise ValueError(f"{file} must have a text as '{name}_token', got {token!r}")
        return token
    number = own.get(f"{name}_token_id")
    if isinstance(number, list):  # several end a text; the first is the one that models learn
        number = number[0] if number else None
    if number is None:
        return None
    whole = isinstance(number, int) and not isinstance(number, bool)
    text = model.id_to_token(number) if whole and 0 <= number < 2**32 else None
    if text is None:
        raise ValueError(
            f"{file} must have the number of a token as '{name}_token_id', got {number!r}; give "
            f"{name}='TOKEN'"
        )
    return text


def _library():
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            'tokens need the library tokenizers: pip install "unlearnjax[language]"'
        ) from error
    return tokenizers
