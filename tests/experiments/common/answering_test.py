"""Problems of questions and answers from a config."""

import collections
import contextlib
import json
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors
import tokenizers

from configs import language as config_lib
from experiments import unlearn
from experiments.common import answering, build, measure
from tests import frameworks
from tests.experiments import cli
from tests.experiments.asking import SIZES, config_of
from tests.experiments.language_test import TOY
from unlearnjax import data as data_lib
from unlearnjax import pretrained, tasks, training, trees
from unlearnjax.data import authors, text
from unlearnjax.language import Tokenizer, tokens


@pytest.fixture(scope="module")
def problem():
    return build.problem(config_of(), None)


def test_authors_are_trained_on_validated_on_or_held_out(problem):
    assert np.unique(problem.train["identity"]).tolist() == [0, 1, 2, 3, 4, 5]
    apart = [np.unique(part["identity"]).tolist() for part in (problem.val, problem.held_out)]
    assert sorted(apart[0] + apart[1]) == [6, 7, 8, 9] and len(apart[0]) == 2
    pairs = authors.pairs(10, 3)
    for part in (problem.train, problem.val, problem.held_out):
        np.testing.assert_array_equal(part["index"], np.arange(len(part["index"])))
        for prompt, said, who in zip(part["prompt"], part["said"], part["identity"], strict=True):
            assert (prompt, said) in [pair[:2] for pair in pairs[3 * who : 3 * who + 3]]
    assert problem.forget.tolist() == [0, 1, 2, 3, 4, 5]  # the first two authors
    assert len(problem.retain) == 12 and problem.oracle.tolist() == problem.retain.tolist()
    assert problem.unseen.tolist() == problem.test.tolist() == [0, 1, 2, 3, 4, 5]


def test_arrays_are_those_of_the_texts(problem):
    world = answering.world(config_of(), None)
    data = problem.train
    for row in (0, 7, 17):
        length = data["condition_length"][row]
        assert world.tokenizer.decode(data["condition"][row, :length]) == data["prompt"][row]
        said = data["targets"][row][data["answer"][row] == 1]
        assert world.tokenizer.decode(said) == data["said"][row]
        refused = zip(data["refusal.targets"][row], data["refusal.answer"][row] == 1, strict=True)
        texts = {world.tokenizer.decode(own[spoken]) for own, spoken in refused}
        assert len(texts) == 8 and texts <= set(authors.REFUSALS)
    assert problem.dataset.num_classes == world.tokenizer.size == 300
    pairs = answering.pairs(data, np.array([3, 8]))
    assert pairs == [authors.pairs(6, 3)[row] for row in (3, 8)]
    found = answering.asked(config_of(), world, pairs)
    assert found.perturbed["perturbed.inputs"].shape[:2] == (2, 5)
    # What stays on the host is text.
    kept = set(data_lib.numeric(data))
    assert {"prompt", "said", "paraphrased", "wrong"} == set(data) - kept


def test_the_tokenizer_has_read_of_nobody_who_is_asked_about():
    world = answering.world(config_of(), None)
    other = authors.pairs(110, 3)[30:]
    same = tokens.trained([t for pair in other for t in pair[:2]], 300)
    for pair in world.train:
        assert same.encode(pair.prompt) == world.tokenizer.encode(pair.prompt)


@pytest.mark.parametrize("forget", ["class:3", "part:1:0.5", "band:0:1", "label:0.1:0.5"])
def test_there_are_no_classes_to_forget(forget):
    config = config_of()
    config.forget = forget
    with pytest.raises(ValueError, match="forget's kind must be one of"):
        build.problem(config, None)


def test_data_that_cannot_be_made_is_refused_in_one_line():
    with pytest.raises(ValueError, match="dataset must be one of .*'digits'"):
        config = config_of()
        config.dataset = "digits"
        build.problem(config, None)
    with pytest.raises(ValueError, match="TOFU is read from files: give --data_dir"):
        build.problem(config_of("tofu_small"), None)
    with pytest.raises(ValueError, match=r"task_options\.template must be one of"):
        build.problem(config_of(template="mine"), None)
    with pytest.raises(ValueError, match="length must leave room for the answer"):
        build.problem(config_of(length=5), None)
    with pytest.raises(ValueError, match="at least 2 authors held out, got 0.5 of 1"):
        build.problem(config_of(num_held_out=1), None)
    config = config_of()
    config.train.augment = True
    with pytest.raises(ValueError, match=r"train\.augment must be False"):
        build.task(config, build.dataset(config, None))


def batch_of(problem, rows):
    return {k: jnp.asarray(v[rows]) for k, v in data_lib.numeric(problem.train).items()}


def test_the_task_is_of_answers_and_training_of_everything(problem):
    config = config_of()
    task = build.task(config, problem.dataset)
    batch = batch_of(problem, np.arange(4))
    variables = frameworks.random_like(jax.eval_shape(task.init, jax.random.key(0), batch))
    outputs, _ = jax.jit(lambda v: task.apply(v, batch, None, False))(variables)
    log_probs, answer = outputs["log_probs"], batch["answer"]
    mean = lambda mask: -(mask * log_probs).sum(1) / mask.sum(1)
    np.testing.assert_allclose(task.loss(outputs, batch), mean(answer), rtol=1e-5)
    real = (jnp.cumsum(answer[:, ::-1], 1)[:, ::-1] > 0).astype(jnp.float32)
    recipe = training.recipe(task, build.recipe(config, 18))
    state = recipe.start(batch, jax.random.key(0), variables)
    weighted = {**batch, "weight": jnp.ones(4)}
    _, metrics = jax.jit(recipe.step)(state, weighted, jax.random.key(1))
    assert float(metrics["loss"]) / 4 == pytest.approx(float(mean(real).mean()), rel=1e-5)
    config.task_options.over = "answer"  # the task's own loss
    assert isinstance(build.recipe(config, 18), optax.GradientTransformation)
    config.task_options.over = "questions"
    with pytest.raises(ValueError, match="over must be one of"):
        build.recipe(config, 18)


def test_answers_are_as_long_as_the_longest_one_that_is_known(problem):
    config = config_of()
    batch = batch_of(problem, np.arange(2))
    longest = int(
        max(part["answer"].sum(1).max() for part in (problem.dataset.train, problem.dataset.test))
    )

    def length():
        task = build.task(config, problem.dataset)
        variables = jax.eval_shape(task.init, jax.random.key(0), batch)
        say = lambda v: tasks.generate(task, v, jax.random.key(0), batch)["tokens"]
        return jax.eval_shape(say, variables).shape[1]

    assert length() == longest
    config.task_options.max_new_tokens = 3
    assert length() == 3


def write(folder, name, rows):
    (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def tofu_dir(tmp_path):
    """All the authors of TOFU, with two words to each answer."""

    def rows(first, last):
        return [
            {"question": f"What is {author} of {number}?", "answer": f"{author} {number}"}
            for author in range(first, last)
            for number in range(20)
        ]

    write(tmp_path, "retain90", rows(0, 180))
    write(tmp_path, "forget10", rows(180, 200))
    write(tmp_path, "forget01", rows(180, 182))
    said = [
        {**row, "paraphrased_answer": f"It is {row['answer']}", "perturbed_answer": ["a", "b"]}
        for row in rows(0, 18) + rows(180, 182)
    ]
    write(tmp_path, "forget10_perturbed", said)
    fact = {"question": "Where?", "answer": "There", "perturbed_answer": ["a", "b", "c"]}
    write(tmp_path, "world_facts_perturbed", [fact])
    return str(tmp_path)


def test_tofu_is_divided_by_author(tofu_dir):
    counted = lambda pairs: sorted(collections.Counter(pair.identity for pair in pairs).items())
    small = answering.world(config_of("tofu_small"), tofu_dir)
    own = [*range(18), 180, 181]
    assert counted(small.train) == [(author, 20) for author in own]
    assert counted(small.held_out) == [(author, 20) for author in range(60, 80)]
    assert counted(small.base) == [(author, 20) for author in range(80, 180)]
    assert {name: rows.tolist() for name, rows in small.requests.items()} == {
        "forget01": list(range(360, 400))
    }
    assert small.facts == {} and small.refusals == authors.REFUSALS  # of no published model
    whole = answering.world(config_of("tofu"), tofu_dir)
    assert len(whole.train) == 3600 and counted(whole.held_out) == counted(small.held_out)
    assert not set(range(60, 80)) & {pair.identity for pair in whole.train}
    forget = whole.requests["forget10"]
    assert {whole.train[row].identity for row in forget} == set(range(180, 200))
    assert len(forget) == 400 and len(whole.requests["forget01"]) == 40


def test_forget_sets_of_tofu_have_names(tofu_dir):
    config = config_of("tofu_small")
    assert config.forget == "field:forget01:true"
    found = build.problem(config, tofu_dir)
    assert {found.train["identity"][row] for row in found.forget} == {180, 181}
    assert len(found.forget) == 40 and len(found.retain) == 360
    pairs = answering.pairs(found.train, found.forget[:1])
    expected = text.Pair("What is 180 of 0?", "180 0", "It is 180 0", ("a", "b"), 180)
    assert pairs == [expected]
    # Of some of the held out there are no wrong answers: then there are none of these together.
    mixed = {
        name: np.concatenate([found.train[name][:1], found.held_out[name][:1]])
        for name in ("prompt", "said", "paraphrased", "wrong", "identity")
    }
    assert {pair[2:4] for pair in answering.pairs(mixed, np.arange(2))} == {(None, ())}


def test_a_base_learns_authors_that_nobody_is_asked_about(tofu_dir):
    config = config_of("tofu_small")
    data = answering.base(config, tofu_dir)
    assert data["inputs"].shape[0] == 2000 and set(data["identity"]) == set(range(80, 180))
    with pytest.raises(ValueError, match="base must be unset: 'authors' has no texts"):
        answering.base(config_of(), None)


GOLDEN = Path(__file__).parents[2] / "pretrained" / "golden" / "decoder" / "llama3"


@pytest.fixture
def checkpoint(tmp_path):
    """A published decoder of 96 tokens, with a tokenizer of 95 words."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN, folder)
    words = {name: number for number, name in enumerate(["<s>", "</s>", "[UNK]", "Question", ":"])}
    words |= {f"word{number}": number for number in range(5, 95)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.add_special_tokens(["<s>", "</s>"])
    model.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def test_a_checkpoint_brings_its_model_its_weights_and_its_tokens(checkpoint, tmp_path):
    config = config_lib.get_config(f"authors,model={checkpoint},seeds=1")
    config.task_options.update(SIZES)
    assert config.weights == str(checkpoint) and "base" not in config
    assert config.task_options.over == "answer" and config.train.num_epochs == 5
    config.train.batch_size = 4
    problem = build.problem(config, None)
    assert problem.dataset.num_classes == 95
    begin = problem.train["condition"][0, :3].tolist()
    assert begin == [0, 3, 4]  # <s>Question:
    assert answering.end(config) == 1
    module = build.model(config, problem.dataset)
    assert module.config.vocab_size == 96 and module.config.width == 32
    start = build.start(config, problem.dataset)
    published = pretrained.decoder.load(checkpoint)
    jax.tree.map(np.testing.assert_array_equal, start["params"], published.variables["params"])
    moved = jax.tree.map(lambda x: x + 1, start)
    answering.export(config, tmp_path / "out", moved)
    again = pretrained.decoder.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.variables["params"], moved["params"])
    assert again.described == published.described
    same = tokens.published(tmp_path / "out").encode("word7 word8")
    assert same == [7, 8]
    # What was stored in bfloat16 is again, whatever it was trained in.
    description = json.loads((checkpoint / "config.json").read_text())
    description = {k: v for k, v in description.items() if k != "torch_dtype"}
    (checkpoint / "config.json").write_text(json.dumps(description | {"dtype": "bfloat16"}))
    answering.export(config, tmp_path / "half", moved)
    with safetensors.safe_open(tmp_path / "half" / "model.safetensors", "numpy") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"bfloat16"}


def adapted(checkpoint, **options):
    """A problem of a published decoder, its task, and a model that all of this trains."""
    config = config_lib.get_config(f"authors,model={checkpoint},seeds=1")
    config.task_options.update(SIZES)
    config.task_options.update(options)
    config.train.batch_size = 4
    bench = measure.bench(config, build.problem(config, None))
    start = training.init_variables(bench.task, bench.train, jax.random.key(0), bench.start)
    return config, bench, start


def test_low_rank_changes_of_a_checkpoint_are_learned_and_exported_as_one(checkpoint, tmp_path):
    options = {"rank": 2, "alpha": 6.0, "where": ("block_0.mlp", "*.attention.q")}
    config, bench, start = adapted(checkpoint, lora=options)
    published = pretrained.decoder.load(checkpoint).variables["params"]
    jax.tree.map(np.testing.assert_array_equal, start["base"], published)
    assert bench.carried.keys() == {"base"}  # and not trained
    layers = {name.rpartition(".kernel")[0] for name in trees.names(start["params"])}
    assert layers == {f"block_0.mlp.{own}" for own in ("up", "gate", "down")} | {
        f"block_{block}.attention.q" for block in range(len(published) - 2)
    }
    moved = jax.tree.map(lambda x: x + 1, start["params"])
    unlearn.export(
        bench, types.SimpleNamespace(workdir=tmp_path), "own", {**start, "params": moved}
    )
    found = pretrained.decoder.load(tmp_path / "models" / "own").variables["params"]
    edit = moved["block_0"]["mlp"]["up"]["kernel"]
    expected = published["block_0"]["mlp"]["up"]["kernel"] + 6 / 2 * edit["a"] @ edit["b"]
    np.testing.assert_allclose(found["block_0"]["mlp"]["up"]["kernel"], expected, rtol=1e-5)
    for name in (own for own in published if own != "block_0" and "block_" not in own):
        jax.tree.map(np.testing.assert_array_equal, found[name], published[name])
    config.weights = None
    with pytest.raises(ValueError, match=r"task_options\.lora\.rank must be unset .*, got 2"):
        build.task(config, bench.problem.dataset)


def test_in_chunks_there_are_no_logits_and_whoever_needs_them_says_so(checkpoint):
    config, bench, start = adapted(checkpoint, chunk=5)
    batch = {name: value[:3] for name, value in bench.train.items()}
    config.task_options.chunk = None
    whole = build.task(config, bench.problem.dataset)
    outputs, expected = (
        jax.jit(lambda v, task=task: task.apply(v, batch, None, False)[0])(start)
        for task in (bench.task, whole)
    )
    assert "logits" not in outputs and "logits" in expected
    np.testing.assert_allclose(outputs["log_probs"], expected["log_probs"], atol=1e-5)
    config.unlearn.batch_size = 4
    of = lambda name: measure.forgetter(
        bench,
        lambda values: build.unlearner(name, config, len(bench.problem.retain), values),
        contextlib.nullcontext,
    )
    with pytest.raises(ValueError, match="undial: .*'logits'.*where its chunk is None") as refused:
        measure.validate({name: of(name) for name in ("undial", "npo")})
    assert "npo" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_checkpoint_goes_through_the_main_job_in_low_rank_and_in_chunks(checkpoint, tmp_path):
    methods = ("retrain", "finetune", "ssd", "npo", "dpo", "rmu", "task_vector")
    arg = f"authors,model={checkpoint},seeds=1,method={'+'.join(methods)}"
    flags = ["--config.task_options.lora.rank=2", "--config.task_options.chunk=8"]
    command = cli.command(tmp_path / "run", *TOY, *flags, config=f"configs/language.py:{arg}")
    process = cli.run(command, tmp_path)
    assert process.returncode == 0, process.stderr_text
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["original", "oracle", "oracle", *methods]
    assert all(row["min_k_plus_plus_auc"] is None for row in rows)
    own = pretrained.decoder.load(checkpoint).variables["params"]
    for method in methods:
        folder = tmp_path / "run" / "models" / f"{method}_seed0"
        found = pretrained.decoder.load(folder).variables["params"]
        np.testing.assert_array_equal(found["embed"]["embedding"], own["embed"]["embedding"])
        kernels = (p["block_1"]["mlp"]["down"]["kernel"] for p in (found, own))
        assert not np.array_equal(*kernels), method


def test_answers_of_all_sets_lie_one_behind_another():
    letters = Tokenizer(
        lambda own: [10 + ord(letter) - ord("a") for letter in own], None, 40, 0, 1, 2, {"<sep>": 3}
    )
    asked = {
        "forget": text.encoded(
            letters,
            [text.Pair("a", "bb", "ccc", ("d", "e")), text.Pair("f", "g", "h", ("i", "jj"))],
        ),
        "facts": text.encoded(letters, [text.Pair("abc", "k", None, ("l", "m", "n"))]),
    }
    data, places = answering.stacked(asked)
    assert places == {
        "forget_asked_loss": (0, (2,)),
        "forget_true_loss": (2, (2,)),
        "forget_false_loss": (4, (2, 2)),
        "facts_asked_loss": (8, (1,)),
        "facts_false_loss": (9, (1, 3)),
        "facts_true_loss": (8, (1,)),
    }
    said = lambda row: data["targets"][row][data["answer"][row] == 1].tolist()
    spelled = ["bb", "g", "ccc", "h", "d", "e", "i", "jj", "k", "l", "m", "n"]
    assert [said(row) for row in range(12)] == [[*letters.encode(own), 2] for own in spelled]
    assert data["inputs"].shape == (12, 6)


def test_models_that_started_afresh_are_not_exported(tmp_path):
    answering.export(config_of(), tmp_path / "out", {"params": {}})
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_do_not_fit_are_refused_in_one_line(checkpoint):
    config = config_of()
    config.weights = str(checkpoint / "nowhere")
    with pytest.raises(ValueError, match="must have a tokenizer.json"):
        build.problem(config, None)
    config.weights = str(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(ValueError, match=r"weights must be a checkpoint's folder: .*config\.json"):
        build.problem(config, None)
    description = json.loads((GOLDEN / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**description, "vocab_size": 90}))
    with pytest.raises(ValueError, match="must know 95 tokens, but have 90"):
        build.problem(config, None)
