"""What is said of language models: on numbers given by hand."""

import types
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import answering, build
from experiments.common.evaluations import language as evaluation
from tests.experiments.asking import config_of
from unlearnjax import audit
from unlearnjax.audit import language
from unlearnjax.types import Task

SAID = {"forget": ["red fox", "a blue bird", "green"], "retain": ["one", "two", "three", "four"]}
SIZES = {"forget": 3, "retain": 4, "real_authors": 2, "world_facts": 2}


def context(facts=()):
    said = SAID | {name: ["Paris", "the Nile"] for name in facts}
    return evaluation.Context(None, None, {}, {}, {}, said, {}, frozenset({"I do not know."}))


def arrays(seed, facts=()):
    rng = np.random.default_rng(seed)
    found = {}
    for name in evaluation.sets.SETS:
        for metric in ("loss", "accuracy", "probability", "extraction", "margin"):
            found[f"{name}_{metric}"] = rng.random(SIZES.get(name, 5))
    for name in (*SAID, *facts):
        size = SIZES[name]
        found |= {
            f"{name}_asked_loss": rng.random(size),
            f"{name}_true_loss": rng.random(size),
            f"{name}_false_loss": rng.random((size, 5)),
        }
    found["forget_answered"] = np.array(["red dog", "a bird", ""])
    found["retain_answered"] = np.array(["one", "I do not know.", "three", "four four"])
    found |= {f"{name}_answered": np.array(["Paris", "a river"]) for name in facts}
    for attack in evaluation.ATTACKS:
        found |= {f"{name}_{attack}": rng.normal(size=6) for name in ("forget", "unseen")}
    return found


def test_numbers_are_the_audits_of_the_arrays():
    own = arrays(0)
    row = evaluation.numbers(context(), own, seed=0)
    assert row["forget_probability"] == pytest.approx(np.exp(-own["forget_asked_loss"]).mean())
    # Of 2, 3 and 1 words of the answers 1, 2 and 0 are said.
    assert row["forget_rouge"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert row["retain_rouge"] == pytest.approx(3 / 4) and row["retain_refused"] == 1 / 4
    ratio = np.exp(own["forget_true_loss"] - own["forget_false_loss"].mean(1))
    assert row["forget_truth_ratio"] == pytest.approx(np.minimum(ratio, 1 / ratio).mean())
    assert row["forget_truth"] == pytest.approx(np.maximum(0, 1 - ratio).mean())
    likelier = own["forget_true_loss"] < own["forget_false_loss"].min(1)
    assert row["forget_choice"] == likelier.mean()
    three = [row[f"retain_{name}"] for name in ("probability", "rouge", "truth")]
    assert row["retain_utility"] == pytest.approx(3 / sum(1 / x for x in three))
    assert np.isnan(row["model_utility"])
    for metric in ("loss", "accuracy", "extraction"):
        assert row[f"unseen_{metric}"] == pytest.approx(own[f"unseen_{metric}"].mean())
    pairs = [own[f"{name}_min_k"] for name in ("forget", "unseen")]
    above = np.mean([a > b for a in pairs[0] for b in pairs[1]])
    assert row["min_k_auc"] == pytest.approx(above)
    assert 0 <= row["min_k_plus_plus_auc"] <= 1 and 0 <= row["mia"] <= 1


def test_utility_of_nine_numbers_needs_both_sets_of_facts():
    facts = ("real_authors", "world_facts")
    own = arrays(1, facts)
    for name in ("retain", *facts):  # so that none of the nine is 0
        own[f"{name}_false_loss"] += 2
    row = evaluation.numbers(context(facts), own, seed=0)
    nine = [row[f"retain_{name}"] for name in ("probability", "rouge", "truth")]
    for name, rouge in (("real_authors", 0.5), ("world_facts", 0.5)):
        true, false = (np.exp(-own[f"{name}_{side}_loss"]) for side in ("true", "false"))
        ratio = np.exp(np.log(false).mean(1)) / true
        truth = np.maximum(0, 1 - ratio).mean()
        nine += [(true / (true + false.sum(1))).mean(), rouge, truth]
    assert row["model_utility"] == pytest.approx(9 / sum(1 / x for x in nine)) and min(nine) > 0
    row = evaluation.numbers(context(facts[:1]), arrays(1, facts[:1]), seed=0)
    assert np.isnan(row["model_utility"])


def test_of_a_model_that_has_diverged_some_numbers_are_unknown():
    own = arrays(2)
    for name in ("forget_true_loss", "forget_min_k", "retain_asked_loss"):
        own[name] = np.full_like(own[name], np.nan)
    row = evaluation.numbers(context(), own, seed=0)
    for name in ("forget_truth_ratio", "forget_choice", "min_k_auc", "retain_utility"):
        assert np.isnan(row[name]), name
    assert np.isfinite([row["forget_probability"], row["retain_truth"]]).all()


def test_without_wrong_answers_there_is_no_truth_ratio():
    own = {name: value for name, value in arrays(3).items() if "false" not in name}
    row = evaluation.numbers(context(), own, seed=0)
    assert np.isnan([row["forget_truth_ratio"], row["retain_utility"]]).all()
    assert np.isfinite(row["forget_rouge"])


METHODS = ("original", *["oracle"] * 4, "npo", "npo")


def compared(change=lambda all_arrays: None):
    found = [arrays(seed) for seed in range(len(METHODS))]
    change(found)
    rows = [
        {"method": method, "relearn_steps": 3, **evaluation.numbers(context(), own, 0)}
        for method, own in zip(METHODS, found, strict=True)
    ]
    return evaluation.against_oracles(context(), rows, found), rows, found


def test_rows_are_compared_with_the_oracles_and_an_oracle_with_the_others():
    result, rows, found = compared()
    ratios = [
        language.log_truth_ratio(o["forget_true_loss"], o["forget_false_loss"]) for o in found
    ]
    quality = lambda i, others: np.mean(
        [language.forget_quality(ratios[i], ratios[j])["p_value"] for j in others]
    )
    assert result[5]["forget_quality"] == pytest.approx(quality(5, [1, 2, 3, 4]))
    assert result[2]["forget_quality"] == pytest.approx(quality(2, [1, 3, 4]))
    stacked = np.stack([ratios[j] for j in (1, 3, 4)])
    own = language.calibrated_forget_quality(ratios[2], stacked).quality
    assert result[2]["calibrated_quality"] == own
    stacked = np.stack(ratios[1:5])
    own = language.calibrated_forget_quality(ratios[0], stacked).quality
    assert result[0]["calibrated_quality"] == own
    leaks = [
        100 * ((1 - rows[5]["min_k_auc"]) / (1 - rows[j]["min_k_auc"]) - 1) for j in (1, 2, 3, 4)
    ]
    assert result[5]["privleak"] == pytest.approx(np.mean(leaks))
    ideal = {name: np.mean([rows[j][name] for j in (1, 2, 3, 4)]) for name in evaluation.GAP}
    gap = np.mean([abs(rows[6][name] - ideal[name]) for name in evaluation.GAP])
    assert result[6]["average_gap"] == pytest.approx(gap)
    assert [row["anamnesis"] for row in result] == [1.0] * len(METHODS)


def test_klom_is_of_all_models_of_a_method_and_the_floor_that_of_the_oracles():
    margins = np.random.default_rng(0).normal(size=(41, 5))
    names = ["oracle"] * 20 + ["npo"] * 20 + ["few"]
    found = evaluation.klom(names, list(margins))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = audit.klom(margins[20:40], margins[:20]).mean()
        floor = audit.noise_floor(margins[:20]).mean()
    assert found["npo"] == pytest.approx(both) and found["oracle"] == pytest.approx(floor)
    assert np.isnan(found["few"])
    margins[20, 0] = np.inf
    assert np.isnan(evaluation.klom(names, list(margins))["npo"])
    few = evaluation.klom(names[1:], list(margins[1:]))
    assert np.isnan(few["oracle"]) and np.isnan(few["npo"])


def test_what_diverged_is_not_compared():
    def diverged(found):
        found[5]["forget_false_loss"][0, 0] = np.nan
        found[5]["forget_margin"][0] = np.inf

    result, _, _ = compared(diverged)
    for name in ("forget_quality", "calibrated_quality", "klom", "average_gap"):
        assert np.isnan(result[5][name]), name
    assert np.isfinite(result[6]["forget_quality"])


def test_one_oracle_has_no_other_to_be_compared_with():
    found = [arrays(0), arrays(1)]
    rows = [
        {"method": m, **evaluation.numbers(context(), o, 0)}
        for m, o in zip(("original", "oracle"), found, strict=True)
    ]
    result = evaluation.against_oracles(context(), rows, found)
    assert np.isfinite(result[0]["forget_quality"]) and np.isnan(result[1]["forget_quality"])
    assert np.isnan([row["calibrated_quality"] for row in result]).all()
    assert "anamnesis" not in result[0]


def test_examples_are_the_first_forgotten_questions_model_by_model():
    train = {"prompt": np.array(["a?", "b?", "c?"]), "said": np.array(["a", "b", "c"])}
    problem = types.SimpleNamespace(forget=np.array([0, 2]), train=train)
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(num_examples=1))
    bench = types.SimpleNamespace(problem=problem, config=config)
    by_method = {
        name: [{"forget_answered": np.array([f"{name} 0", f"{name} 1"])}, None]
        for name in ("oracle", "original", "npo")
    }
    (table,) = evaluation.examples(bench, by_method).values()
    assert table == [
        ("question", ["a?"]),
        ("true answer", ["a"]),
        ("original", ["original 0"]),
        ("oracle", ["oracle 0"]),
        ("npo", ["npo 0"]),
    ]
    config.evaluate.num_examples = 5
    (table,) = evaluation.examples(bench, by_method).values()
    assert table[1][1] == ["a", "c"]


def test_relearning_ends_near_the_original():
    known = evaluation.EVALUATION.relearn
    assert known.metric == "accuracy" and known.target({"forget_accuracy": 0.75}, 0.25) == 0.5


def test_losses_and_answers_come_back_set_by_set(monkeypatch):
    """Of a model whose loss is a row's first token, and who says its prompt."""
    problem = build.problem(config_of(), None)
    config = config_of()
    config.evaluate.update({"batch_size": 5, "num_retain": 4, "min_k": 1.0})
    bench = types.SimpleNamespace(config=config, problem=problem)
    context = evaluation.prepare(types.SimpleNamespace(data_dir=None), bench)
    monkeypatch.setattr(evaluation.sets, "observe", lambda *_: {})

    def apply(variables, batch, rng, train):
        first = batch["inputs"].astype(float)
        return {"log_probs": -first, "logits": jnp.zeros((*first.shape, 2))}, variables

    def loss(outputs, batch):
        return -outputs["log_probs"].sum(1)

    def generate(task, variables, rng, batch):
        return {"tokens": batch["condition"], "length": batch["condition_length"]}

    task = Task(None, apply, loss, None, generate=generate)
    found = evaluation.observe(context, task, {})
    pairs = {"forget": answering.pairs(problem.train, problem.forget)}
    assert found["forget_answered"].tolist() == [pair.prompt for pair in pairs["forget"]]
    assert len(found["retain_answered"]) == 4
    kept = set(problem.train["prompt"][problem.retain])
    assert set(found["retain_answered"]) <= kept
    world = answering.world(config, None)
    own = answering.asked(config, world, pairs["forget"])
    for column, value in (
        ("asked", own.data["inputs"]),
        ("true", own.data["paraphrase.inputs"]),
        ("false", own.perturbed["perturbed.inputs"]),
    ):
        np.testing.assert_allclose(found[f"forget_{column}_loss"], value.sum(-1), rtol=1e-6)
    for name, part in (("forget", problem.train), ("unseen", problem.held_out)):
        inputs, answer = part["inputs"][:6], part["answer"][:6]
        mean = (inputs * answer).sum(1) / answer.sum(1)  # of all tokens
        np.testing.assert_allclose(found[f"{name}_min_k"], -mean, rtol=1e-5)
    assert [len(context.said[name]) for name in ("forget", "retain")] == [6, 4]
    np.testing.assert_array_equal(found["forget_said_tokens"], context.prompts["condition"][:6])
    assert found["forget_said_length"].shape == (6,)


def test_what_is_said_is_judged_token_by_token_and_by_the_oracle_alone():
    """Of a model that takes 1 after 0, and itself after any other, with three chances in four."""
    log = np.log([[1 / 8, 3 / 4, 1 / 8], [1 / 8, 3 / 4, 1 / 8], [1 / 8, 1 / 8, 3 / 4]])

    def apply(variables, batch, rng, train):
        return {"log_probs": variables["log"][batch["inputs"], batch["targets"]]}, variables

    def loss(outputs, batch):
        answer = batch["answer"]
        return -(outputs["log_probs"] * answer).sum(1) / answer.sum(1)

    prompts = {"condition": jnp.array([[0, 0], [2, 0], [0, 0]]), "index": jnp.arange(3)}
    prompts["condition_length"] = jnp.array([2, 1, 1])
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(batch_size=4))
    own = evaluation.Context(
        types.SimpleNamespace(config=config), None, {}, {}, prompts, {"forget": "ab"}, {}, set()
    )
    said = {"forget_said_tokens": np.array([[1, 2, 2], [2, 2, 0]])}
    said["forget_said_length"] = np.array([1, 3])  # the end of the first, 2, counts; no other does
    found = evaluation.under_oracle(own, Task(None, apply, loss, None), {"log": log}, said)
    first = -(np.log(3 / 4) + np.log(1 / 8)) / 2  # 0 0 | 1 2
    second = -(2 * np.log(3 / 4) + np.log(1 / 8)) / 3  # 2 | 2 2 0
    assert found == {"forget_said_loss": pytest.approx((first + second) / 2, rel=1e-6)}


def test_nothing_is_forgotten_that_was_not_learned(capsys):
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(least_known=0.5))
    own = context()._replace(bench=types.SimpleNamespace(config=config))
    known, hardly = ({"forget_asked_loss": -np.log([p, p])} for p in (0.75, 0.25))
    evaluation.approve(own, [known, known])
    assert capsys.readouterr().out.strip().endswith("a probability of 0.75, 0.75")
    with pytest.raises(ValueError, match=r"of 0.5 or more, got 0.75, 0.25: .*least_known"):
        evaluation.approve(own, [known, hardly])
    with pytest.raises(ValueError, match="got nan"):
        evaluation.approve(own, [{"forget_asked_loss": np.array([np.nan])}])
