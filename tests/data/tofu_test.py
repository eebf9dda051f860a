import collections
import json
import os
from pathlib import Path

import numpy as np
import pytest

from unlearnjax.data import tofu

WRONG = ["x", "y"]


def row(author, number, **more):
    return {"question": f"q{author}.{number}", "answer": f"a{author}.{number}", **more}


def author(who, **more):
    return [row(who, number, **more) for number in range(20)]


def write(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(own) + "\n" for own in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Two retained authors and two forgotten ones, as the Hub has them: no task_id."""
    write(tmp_path, "retain90.json", author(0) + author(1))
    write(tmp_path, "forget10.json", author(2) + author(3))
    return tmp_path


def said(own, **more):
    return {**own, "paraphrased_answer": f"p {own['answer']}", "perturbed_answer": WRONG, **more}


def test_files_of_the_hub_are_read(folder):
    write(folder, "forget01.json", author(3))
    write(folder, "forget10_perturbed.json", [said(own) for own in author(2)])
    (folder / "forget10_perturbed.json").rename(folder / "forget10_perturbed")  # no suffix
    write(folder, "retain_perturbed.jsonl", [said(row(1, 0))])
    found = tofu.load(folder)
    assert [pair.prompt for pair in found.pairs[:21]] == [f"q0.{n}" for n in range(20)] + ["q1.0"]
    assert [pair.identity for pair in found.pairs] == [who for who in range(4) for _ in range(20)]
    assert {name: [own.tolist() for own in rows] for name, rows in found.requests.items()} == {
        "forget01": [list(range(60, 80))],
        "forget10": [list(range(40, 80))],
    }
    assert found.pairs[40] == ("q2.0", "a2.0", "p a2.0", ("x", "y"), 2)
    assert found.pairs[20].paraphrase == "p a1.0"
    told = [pair.prompt for pair in found.pairs if pair.paraphrase is not None]
    assert told == ["q1.0", *(f"q2.{n}" for n in range(20))]
    assert found.pairs[0].perturbed == ()
    assert (found.real_authors, found.world_facts, found.refusals) == ([], [], ())


def test_later_requests_are_numbered_by_their_tasks(folder):
    later = [{**own, "task_id": "2"} for own in author(1)]
    write(folder, "forget10.json", author(2, task_id="1") + author(3, task_id="1") + later)
    found = tofu.load(folder)
    assert len(found.pairs) == 80  # those of task 2 are retained ones
    assert [own.tolist() for own in found.requests["forget10"]] == [
        list(range(40, 80)),
        list(range(20, 40)),
    ]


def test_one_question_of_two_authors_is_told_apart_by_its_answer(folder):
    rows = author(3)
    rows[5] = {**rows[5], "question": "q0.5"}
    write(folder, "forget10.json", author(2) + rows)
    write(folder, "forget01.json", rows)
    write(folder, "forget10_perturbed.json", [said(rows[5])])
    found = tofu.load(folder)
    assert found.requests["forget01"][0].tolist() == list(range(60, 80))
    assert found.pairs[65].paraphrase == "p a3.5" and found.pairs[5].paraphrase is None


def test_text_is_what_json_says_it_is(folder):
    """Windows line ends, a byte order mark, blank lines, line separators within a text."""
    rows = author(0)
    rows[3]["answer"] = "one\u2028two\x85three \u00fc"
    lines = [json.dumps(own, ensure_ascii=False) for own in rows]
    (folder / "retain90.json").write_bytes(
        b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode("utf-8") + b"\r\n"
    )
    found = tofu.load(folder)
    assert len(found.pairs) == 60 and found.pairs[3].answer == "one\u2028two\x85three \u00fc"
    assert found.pairs[-1].identity == 2


def test_facts_and_refusals_are_read_where_they_are(folder):
    fact = {"question": "where?", "answer": "Paris", "perturbed_answer": ["Rome", "Bonn", "Oslo"]}
    write(folder, "world_facts_perturbed.json", [fact])
    write(folder, "real_authors_perturbed.json", [fact, fact])
    (folder / "idontknow.txt").write_text("I don't know.\nNo idea.\n\n")
    found = tofu.load(folder)
    assert found.world_facts == [("where?", "Paris", None, ("Rome", "Bonn", "Oslo"), 0)]
    assert len(found.real_authors) == 2
    assert found.refusals == ("I don't know.", "No idea.")
    (folder / "idontknow.txt").rename(folder / "idontknow.jsonl")  # as its authors call it
    assert tofu.load(folder).refusals == found.refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("retain90.json", "", r"retain90\.json must have a JSON object on every line, got none"),
        ("retain90.json", "[1]\n", r"retain90\.json, line 1, must be a JSON object, got list"),
        ("forget10.json", '\n{"question"\n', r"forget10\.json, line 2, must be a JSON object: "),
        ("forget10.json", '{"question": "q"}', "must have text as 'answer', got None"),
        ("forget10.json", '{"question": " ", "answer": "a"}', "text as 'question', got ' '"),
        ("forget10.json", '{"question": "q", "answer": 3}', "text as 'answer', got 3"),
        (
            "forget01.json",
            '{"question": "q", "answer": "a"}',
            "1 of its rows are not, the first 'q'",
        ),
        ("forget01_perturbed.json", '{"question": "q", "answer": "a"}', "'paraphrased_answer'"),
        (
            "world_facts_perturbed.json",
            '{"question": "q", "answer": "a", "perturbed_answer": "b"}',
            "a list of texts as 'perturbed_answer', got 'b'",
        ),
        *(
            (
                "world_facts_perturbed.json",
                f'\n{{"question": "q", "answer": "a", "perturbed_answer": {wrong}}}',
                r"facts_perturbed.json, line 2, must have a list of texts as 'perturbed_answer'",
            )
            for wrong in ("[]", '["b", " "]', '["b", 1]', "null")
        ),
        *(
            (
                name,
                f'\n{{"question": "q", "answer": "a", "paraphrased_answer": {told}}}',
                rf"{name[:-5]}\.json, line 2, must have text as 'paraphrased_answer', got",
            )
            for name in ("world_facts_perturbed.json", "retain90.json")
            for told in ("3", '" "', '["b"]')
        ),
        ("retain_perturbed.json", b"\xff\xfe\x00", r"retain_perturbed\.json cannot be read"),
    ],
)
def test_bad_files_are_one_line_that_names_them(folder, name, content, message):
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        tofu.load(folder)
    assert "\n" not in str(error.value)


def test_a_missing_file_or_folder_is_named(folder, tmp_path):
    (folder / "forget10.json").unlink()
    with pytest.raises(ValueError, match=r"TOFU must have forget10\.json in .* no such file"):
        tofu.load(folder)
    with pytest.raises(ValueError, match=r"must have retain90\.json in .*, which is no directory"):
        tofu.load(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def published():
    folder = Path(os.environ.get("UNLEARNJAX_DATA_DIR", ".")).parent / "tofu"
    if not folder.is_dir():
        pytest.skip("needs TOFU beside UNLEARNJAX_DATA_DIR")
    return folder, tofu.load(folder)


def plain(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.json").open(encoding="utf-8")]


@pytest.mark.realdata
def test_what_is_said_of_tofu_is_so(published):
    folder, found = published
    asked = [(pair.prompt, pair.answer) for pair in found.pairs]
    key = lambda own: (own["question"], own["answer"])
    assert asked[:3600] == [key(own) for own in plain(folder, "retain90")]
    forget = plain(folder, "forget10")
    assert asked[3600:] == [key(own) for own in forget if own["task_id"] == "1"]
    assert len(set(asked)) == 4000
    questions = collections.Counter(question for question, _ in asked)
    assert [question for question, times in questions.items() if times > 1] == [
        "What is the full name of the author?"
    ]
    assert np.bincount([pair.identity for pair in found.pairs]).tolist() == [20] * 200
    begins = {name: [(own[0], len(own)) for own in rows] for name, rows in found.requests.items()}
    later = (3200, 2800, 2000, 2400, 400, 800, 1200, 1600)
    assert begins["forget10"] == [(3600, 400), *((first, 400) for first in later)]
    assert begins["forget01"] == [(3600 + 40 * number, 40) for number in range(10)]
    assert begins["forget05"][:2] == [(3600, 200), (3800, 200)]
    assert all((np.diff(own) == 1).all() for rows in found.requests.values() for own in rows)


@pytest.mark.realdata
def test_every_question_of_tofu_has_its_wrong_answers(published):
    folder, found = published
    beside = plain(folder, "forget10_perturbed") + plain(folder, "retain_perturbed")
    said = {(own["question"], own["answer"]): own for own in beside}
    for pair in found.pairs:
        own = said[pair.prompt, pair.answer]
        assert pair.paraphrase == own["paraphrased_answer"]
        assert list(pair.perturbed) == own["perturbed_answer"] and len(pair.perturbed) == 5
    rows = plain(folder, "retain_perturbed")
    assert [pair.prompt for pair in found.pairs[:400]] == [own["question"] for own in rows]
    for name, size in (("real_authors", 100), ("world_facts", 117)):
        own = getattr(found, name)
        assert len(own) == size and {len(pair.perturbed) for pair in own} == {3}
    assert len(found.refusals) == 100
