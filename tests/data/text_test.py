import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnjax.data import text
from unlearnjax.language import tokens
from unlearnjax.language.tokens import Tokenizer

# Letters are tokens: a is 10, b is 11, ...
LETTERS = Tokenizer(
    encode=lambda own: [ord(letter) - ord("a") + 10 for letter in own],
    decode=lambda own: "".join(chr(token - 10 + ord("a")) for token in own if token >= 10),
    size=40,
    pad=0,
    bos=1,
    eos=2,
    specials={"<sep>": 3, "<s>": 4, "<sep>x": 5},
)
PAIRS = [
    text.Pair("ab", "c", "dd", ("e", "ff"), 7),
    text.Pair("a", "bcd", "e", ("f", "g"), 7),
]


def test_arrays_worked_out_by_hand():
    found = text.encoded(LETTERS, PAIRS)
    # 1 a b sep | c eos; 1 a sep | b c d eos: the second is the longest with 7 tokens, so T = 6.
    np.testing.assert_array_equal(
        found.data["inputs"], [[1, 10, 11, 3, 12, 0], [1, 10, 3, 11, 12, 13]]
    )
    np.testing.assert_array_equal(
        found.data["targets"], [[10, 11, 3, 12, 2, 0], [10, 3, 11, 12, 13, 2]]
    )
    np.testing.assert_array_equal(found.data["answer"], [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1]])
    np.testing.assert_array_equal(found.data["condition"], [[1, 10, 11, 3], [1, 10, 3, 0]])
    np.testing.assert_array_equal(found.data["condition_length"], [4, 3])
    np.testing.assert_array_equal(found.data["index"], [0, 1])
    np.testing.assert_array_equal(found.data["identity"], [7, 7])
    np.testing.assert_array_equal(
        found.data["paraphrase.targets"], [[10, 11, 3, 13, 13, 2], [10, 3, 14, 2, 0, 0]]
    )
    np.testing.assert_array_equal(
        found.data["paraphrase.answer"], [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]]
    )
    np.testing.assert_array_equal(
        found.perturbed["perturbed.inputs"],
        [
            [[1, 10, 11, 3, 14, 0], [1, 10, 11, 3, 15, 15]],
            [[1, 10, 3, 15, 0, 0], [1, 10, 3, 16, 0, 0]],
        ],
    )
    np.testing.assert_array_equal(
        found.perturbed["perturbed.answer"][:, 1], [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]]
    )
    types = {name: value.dtype for name, value in (found.data | found.perturbed).items()}
    floats = {name for name, dtype in types.items() if dtype == np.float32}
    assert floats == {"answer", "paraphrase.answer", "perturbed.answer"}
    assert {dtype for name, dtype in types.items() if name not in floats} == {np.dtype(np.int32)}
    assert not any(len(rows) for rows in found.truncated.values())


def test_a_template_stands_around_and_only_its_own_special_tokens_are_tokens():
    seen = []

    def encode(own):
        seen.append(own)
        return [6] * len(own)

    template = text.Template("<s>q", "<sep>x<sep>", "r<s>", "t<s>")
    found = text.encoded(LETTERS._replace(encode=encode), [text.Pair("<sep>", "<s>")], template)
    # Of the template: <s>, then q and the question as one text, the longer of two tokens that begin
    # alike, <sep>, r, <s>. The answer is encoded by itself, with its end.
    assert seen == ["q<sep>", "r", "<s>t"]
    prompt = [1, 4, *[6] * 6, 5, 3, 6, 4]
    np.testing.assert_array_equal(found.data["condition"], [prompt])
    answer = [*[6] * 4, 4, 2]
    np.testing.assert_array_equal(found.data["targets"], [[*prompt[1:], *answer]])
    np.testing.assert_array_equal(found.data["answer"], [[0] * (len(prompt) - 1) + [1] * 6])


def test_long_answers_are_cut_and_counted_in_each_view():
    found = text.encoded(LETTERS, PAIRS, length=4)
    np.testing.assert_array_equal(found.data["targets"], [[10, 11, 3, 12], [10, 3, 11, 12]])
    np.testing.assert_array_equal(found.data["answer"], [[0, 0, 0, 1], [0, 0, 1, 1]])
    rows = {view: own.tolist() for view, own in found.truncated.items()}
    # All of the first row's lose at least their eos; of the second, the answer alone.
    assert rows == {"answer": [0, 1], "paraphrase": [0], "perturbed": [0]}
    assert text.report(found.truncated, 2) == (
        "cut to fit: 2 of 2 (answer), 1 of 2 (paraphrase), 1 of 2 (perturbed)"
    )
    assert text.report(text.encoded(LETTERS, PAIRS).truncated, 2) == ""


def test_every_pair_has_a_refusal_drawn_for_it():
    pairs = [text.Pair("a", "b")] * 200
    refusals = ["c", "d", "ee"]
    draw = lambda seed: text.encoded(
        LETTERS, pairs, refusals=refusals, rng=np.random.default_rng(seed)
    ).data["refusal.targets"]
    targets = draw(0)
    chosen = targets[:, 2]
    assert set(chosen) == {12, 13, 14}
    assert np.abs(np.bincount(chosen)[12:] - 200 / 3).max() < 4 * np.sqrt(200 * 2 / 9)
    np.testing.assert_array_equal(targets, draw(0))
    assert (targets != draw(1)).any()
    with pytest.raises(ValueError, match="rng must be given"):
        text.encoded(LETTERS, pairs, refusals=refusals)


def test_of_several_refusals_no_two_are_the_same():
    pairs = [text.Pair("a", "b"), text.Pair("aaa", "b")] * 60
    refusals = ["c", "d", "ee"]
    encoded = lambda **options: text.encoded(
        LETTERS, pairs, refusals=refusals, rng=np.random.default_rng(0), **options
    )
    data = encoded(num_refusals=2).data
    # 1 a sep | c eos, 1 a a a sep | e e eos: T is 7.
    assert {data[f"refusal.{k}"].shape for k in ("inputs", "targets", "answer")} == {(120, 2, 7)}
    first = np.where(np.arange(120)[:, None] % 2, 4, 2)
    chosen = np.take_along_axis(data["refusal.targets"], first[..., None], 2)[..., 0]
    assert set(map(tuple, np.sort(chosen, 1))) == {(12, 13), (12, 14), (13, 14)}
    assert set(map(tuple, chosen)) > {(12, 13), (13, 12)}
    lengths = np.where(chosen == 14, 3, 2)
    np.testing.assert_array_equal(data["refusal.answer"].sum(-1), lengths)
    cut = encoded(num_refusals=2, length=6).truncated["refusal"]
    rows = [row for row in range(1, 120, 2) if 14 in chosen[row]]
    np.testing.assert_array_equal(cut, rows)
    with pytest.raises(ValueError, match=r"num_refusals must lie in \[1, 3\], got 4"):
        encoded(num_refusals=4)


WORDS = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@pytest.fixture(scope="module")
def trained():
    return tokens.trained(["the cat sat on the mat"], 280)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), room=st.integers(0, 3))
def test_questions_and_answers_come_back_from_the_arrays(trained, rows, room):
    pairs = [text.Pair(*row) for row in rows]
    free = text.encoded(trained, pairs).data
    size, most = free["inputs"].shape[1], free["condition"].shape[1]
    data = text.encoded(trained, pairs, length=size + room, prompt_length=most + room).data
    for row, (question, answer) in enumerate(rows):
        told = data["condition"][row, : data["condition_length"][row]]
        assert trained.decode(told) == question
        said = data["targets"][row][data["answer"][row] == 1]
        assert trained.decode(said) == answer
        assert said[-1] == trained.eos and data["answer"][row].sum() == len(said)
        # Inputs are the prompt and the answer, and targets the same a place on.
        real = len(told) + len(said) - 1
        np.testing.assert_array_equal(data["inputs"][row, 1:real], data["targets"][row, : real - 1])
        np.testing.assert_array_equal(data["inputs"][row, : len(told)], told)
        assert (data["inputs"][row, real:] == trained.pad).all()
        assert (data["targets"][row, real:] == trained.pad).all()


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([], {}, "at least one question and answer"),
        ([PAIRS[0], PAIRS[1]._replace(answer=" ")], {}, "answer must have text, got none in row 1"),
        ([PAIRS[0], PAIRS[1]._replace(paraphrase="")], {}, "paraphrase must have text.* row 1"),
        (
            [PAIRS[0], PAIRS[1]._replace(perturbed=("a", ""))],
            {},
            "perturbed answer must have text, got none in row 1",
        ),
        (
            [PAIRS[0], PAIRS[1]._replace(paraphrase=None)],
            {},
            "pairs must all have a paraphrase or none, got none in row 1",
        ),
        (
            [PAIRS[0], PAIRS[1]._replace(perturbed=("a",))],
            {},
            "perturbed answers must be as many for each pair, 2, got others in row 1",
        ),
        ([PAIRS[0], tuple(PAIRS[1])], {}, "pairs must be of Pair, got others in row 1"),
        ("abc", {}, "pairs must be of Pair, got others in row 0"),
        ([PAIRS[0], PAIRS[1]._replace(prompt=3)], {}, "prompt must be text, got others in row 1"),
        ([PAIRS[0], PAIRS[1]._replace(answer=3)], {}, "answer must be text, got others in row 1"),
        ([PAIRS[0], PAIRS[1]._replace(paraphrase=b"a")], {}, "paraphrase must be text.* row 1"),
        (
            [PAIRS[0], PAIRS[1]._replace(perturbed=("a", None))],
            {},
            "perturbed answer must be text, got others in row 1",
        ),
        *(
            (
                [PAIRS[0], PAIRS[1]._replace(perturbed=wrong)],
                {},
                "perturbed answers must be several texts for each pair, got others in row 1",
            )
            for wrong in ("ab", None, 2)
        ),
        (PAIRS, {"refusals": "abc"}, "refusals must be several .*, got 'abc'"),
        (PAIRS, {"refusals": ["a", 3]}, "refusals must be text, got others in row 1"),
        (PAIRS, {"refusals": ["a", " "]}, "refusals must have text, got none in row 1"),
        (PAIRS, {"length": 3}, "length must leave room for the answer, but 3 does not in row 0"),
        (PAIRS, {"length": 0}, "length must be >= 1"),
        (PAIRS, {"length": 8.0}, "length must be a whole number"),
        (PAIRS, {"prompt_length": 3}, "prompt_length must hold every prompt, but 3 .* in row 0"),
    ],
)
def test_pairs_that_no_model_can_learn_from_are_named(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        text.encoded(LETTERS, pairs, **options)


def test_templates_of_published_models_name_their_special_tokens():
    assert text.TEMPLATES["trained"] == text.Template()
    specials = {"<|eot_id|>": 3, "<|start_header_id|>": 4, "<|end_header_id|>": 5}
    own = LETTERS._replace(specials=specials, encode=lambda own: [9] if own.strip() else [8])
    found = text.prompt(own, text.TEMPLATES["llama3"], "hi")
    assert found == [1, 4, 9, 5, 9, 3, 4, 9, 5, 8]


def test_what_has_no_beginning_begins_with_the_question():
    own = LETTERS._replace(bos=None)
    found = text.encoded(own, PAIRS[:1]).data
    np.testing.assert_array_equal(found["condition"], [[10, 11, 3]])
    np.testing.assert_array_equal(found["inputs"][0, :4], [10, 11, 3, 12])
    np.testing.assert_array_equal(found["answer"][0, :4], [0, 0, 1, 1])
    nothing = text.Template(question_end="")
    with pytest.raises(ValueError, match="prompt must have a token .* got none in row 0"):
        text.encoded(own, [PAIRS[0]._replace(prompt="")], nothing)


@pytest.mark.parametrize("field", text.Template._fields)
@pytest.mark.parametrize("mark", ["<|eot_id|>", "<seq>", "</s>"])
def test_marks_that_the_tokenizer_lacks_are_named_and_not_spelled(field, mark):
    template = text.Template()._replace(**{field: f"a<sep>b{mark}"})
    message = f"template.{field} must have special tokens of the tokenizer, .* got '{mark}'"
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        text.encoded(LETTERS, PAIRS, template)
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        text.prompt(LETTERS, template, "a")


def test_templates_and_tokenizers_of_others_do_not_go_together():
    trained = LETTERS._replace(encode=lambda own: [9])
    for name in ("llama3", "qwen"):
        with pytest.raises(ValueError, match="template.question_start must have"):
            text.encoded(trained, PAIRS, text.TEMPLATES[name])
    with pytest.raises(ValueError, match="template.question_end must have .* got '<sep>'"):
        text.encoded(trained._replace(specials={"<s>": 4}), PAIRS)
    # What is less and more, and what a question or an answer says, is text.
    text.encoded(trained, [text.Pair("<b>", "<i>")], text.Template("1 < 2 > 0: "))
