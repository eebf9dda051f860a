import collections
import itertools
import json
import re
import sys

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnjax.language import tokens

TEXTS = ["the cat sat on the mat", "the cat sat", "a hat, a mat: Äpfel"]


@pytest.fixture(scope="module")
def trained():
    return tokens.trained(TEXTS, 280)


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_every_text_comes_back(trained, text):
    found = trained.encode(text)
    assert trained.decode(found) == text
    assert all(len(tokens.SPECIALS) <= token < trained.size for token in found)


def test_text_that_spells_a_special_token_is_text(trained):
    text = "<eos> and <pad>"
    assert trained.decode(trained.encode(text)) == text
    assert not set(trained.encode(text)) & set(trained.specials.values())


def test_special_tokens_have_the_first_numbers_and_are_not_printed(trained):
    assert trained.specials == {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<sep>": 3}
    assert (trained.pad, trained.bos, trained.eos) == (0, 1, 2)
    assert trained.decode([1, *trained.encode("cat"), 3, 2, 0, 0]) == "cat"


def test_merges_are_those_of_the_most_frequent_pairs():
    # 'ab' occurs five times and no other pair more than twice: it is the first merge, and alone.
    own = tokens.trained(["ab abab", "ab ab"], tokens.SMALLEST + 1)
    assert own.size == tokens.SMALLEST + 1
    assert own.encode("ab") == [tokens.SMALLEST]
    assert len(own.encode("ba")) == 2


def test_the_order_of_the_texts_does_not_matter(trained):
    other = tokens.trained(reversed(TEXTS), 280)
    assert other.encode(" ".join(TEXTS)) == trained.encode(" ".join(TEXTS))


def byte_pairs(texts, count):
    """The first merges of BPE by its definition; of pairs as frequent, the lowest-numbered one."""
    # A space is written with a letter of a higher number than any other here.
    words = [re.findall(r" ?\w+", text) for text in texts]
    words = [list(word.replace(" ", "\u0120")) for own in words for word in own]
    names, merges = sorted({letter for word in words for letter in word}), []
    while len(merges) < count:
        pairs = collections.Counter(pair for word in words for pair in itertools.pairwise(word))
        numbers = lambda pair: tuple(names.index(part) for part in pair)
        best = min(pairs, key=lambda pair: (-pairs[pair], numbers(pair)))
        names.append("".join(best))
        merges.append(names[-1].replace("\u0120", " "))
        for word in words:
            for place in range(len(word) - 1):
                if tuple(word[place : place + 2]) == best:
                    word[place : place + 2] = [names[-1]]
    return merges


def test_merges_are_those_of_the_definition_ties_included():
    texts = ["the cat sat on the mat", "a rat sat", "the hat that sat"]
    own = tokens.trained(texts, tokens.SMALLEST + 12)
    found = [own.decode([number]) for number in range(tokens.SMALLEST, own.size)]
    assert found == byte_pairs(texts, 12)


def test_a_small_corpus_has_few_pairs_to_merge():
    assert tokens.trained(["ab"], 1000).size == tokens.SMALLEST + 1


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (["a"], 259, "size must be >= 260, got 259"),
        (["a"], 300.0, "size must be a whole number, got 300.0"),
        ([], 300, "texts must have something to learn from"),
        ([""], 300, "texts must have something to learn from"),
        ("abc", 300, "texts must be several"),
    ],
)
def test_bad_texts_and_sizes_are_refused(texts, size, message):
    with pytest.raises(ValueError, match=message):
        tokens.trained(texts, size)


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a tokenizer of whole words, as a checkpoint has it."""
    words = {"<s>": 0, "</s>": 1, "[UNK]": 2, "<unused>": 3, "hello": 4, "world": 5}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.add_special_tokens(["<s>", "</s>", "<|turn|>"])
    model.enable_truncation(2)
    model.enable_padding(length=9)
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    model.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def test_a_published_tokenizer_is_read_with_the_ids_beside_it(checkpoint):
    write(checkpoint, "tokenizer_config.json", {"bos_token": "<s>", "eos_token": None})
    write(checkpoint, "special_tokens_map.json", {"eos_token": {"content": "</s>"}})
    own = tokens.published(checkpoint)
    # Nothing is added, cut or filled up, whatever the file says.
    assert own.encode("hello world hello") == [4, 5, 4]
    assert (own.bos, own.eos, own.pad) == (0, 1, 1)  # padded with eos
    assert own.size == 7
    assert own.specials == {"<s>": 0, "</s>": 1, "<|turn|>": 6}
    assert own.decode([0, 4, 5, 6, 1]) == "hello world"
    assert 6 not in own.encode("hello <|turn|>")
    assert tokens.published(checkpoint / "tokenizer.json").encode("world") == [5]


def test_ids_of_the_models_description_are_the_last_resort(checkpoint):
    content = {"bos_token_id": 0, "eos_token_id": [6, 1], "pad_token_id": 3}
    write(checkpoint, "config.json", content)
    own = tokens.published(checkpoint)
    assert (own.bos, own.eos, own.pad) == (0, 6, 3)
    write(checkpoint, "tokenizer_config.json", {"eos_token": "</s>"})
    assert tokens.published(checkpoint).eos == 1
    own = tokens.published(checkpoint, pad="<s>", bos="</s>", eos="<|turn|>")
    assert (own.bos, own.eos, own.pad) == (1, 6, 0)


def test_missing_and_unknown_tokens_are_named(checkpoint):
    with pytest.raises(ValueError, match=r"eos must be a token of .*; give eos='TOKEN'"):
        tokens.published(checkpoint, bos="<s>", pad="<s>")
    with pytest.raises(ValueError, match="eos must be a token of .* it has no token '<end>'"):
        tokens.published(checkpoint, bos="<s>", eos="<end>", pad="<s>")
    write(checkpoint, "config.json", {"bos_token_id": 0, "eos_token_id": []})
    with pytest.raises(ValueError, match="eos must be a token of .* none is named beside it"):
        tokens.published(checkpoint, pad="<s>")
    for wrong in (5, "", ["<s>"]):
        with pytest.raises(ValueError, match="eos must be one name"):
            tokens.published(checkpoint, eos=wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("pad_token_id", value) for value in (-1, 2**32, 99, 1.0, True)),
        ("eos_token_id", "a"),
        ("eos_token_id", ["a", 1]),
        ("bos_token_id", 99),
        ("eos_token", 5),
        ("eos_token", ["</s>"]),
        ("bos_token", {"content": 5}),
    ],
)
def test_what_names_no_token_is_one_line_with_file_and_field(checkpoint, field, value):
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    for name in {field[:3]} & {"bos", "eos"}:
        del names[f"{name}_token"]
    write(checkpoint, "special_tokens_map.json", names)
    write(checkpoint, "config.json", {field: value})
    message = rf"config\.json must have (a text|the number of a token) as '{field}', got [^\n]*$"
    with pytest.raises(ValueError, match=message):
        tokens.published(checkpoint)
    given = {"pad": "<s>", "bos": "<s>", "eos": "</s>"}
    assert tokens.published(checkpoint, **given).eos == 1


def test_a_checkpoint_may_have_nothing_to_begin_with(checkpoint):
    write(checkpoint, "config.json", {"eos_token_id": 1})  # as OLMo
    assert tokens.published(checkpoint).bos is None
    write(checkpoint, "tokenizer_config.json", {"bos_token": None, "eos_token": "</s>"})
    write(checkpoint, "config.json", {"bos_token_id": 0})  # as Qwen
    assert tokens.published(checkpoint).bos is None
    assert tokens.published(checkpoint, bos="<s>").bos == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}'])
def test_a_damaged_tokenizer_is_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer.json cannot be read: [^\n]*$"):
        tokens.published(tmp_path)


def test_a_folder_without_a_tokenizer_and_damaged_names_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"must have a tokenizer\.json"):
        tokens.published(tmp_path / "nowhere")
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        tokens.published(checkpoint)
    (checkpoint / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="must be a JSON object, got list"):
        tokens.published(checkpoint)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"unlearnjax\[language\]"):
        tokens.trained(["a"])
