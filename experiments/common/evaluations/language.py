"""Language: what a model still says of the forgotten authors, and of the others.

Every number stands beside the oracles' own: a model that never read of an author still knows the
form of an answer, and guesses.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.common import answering, runner
from experiments.common.evaluations import Arrays, Evaluation, Gap, Relearn, sets
from experiments.common.measure import Bench, place
from unlearnjax import audit, parallel, tasks, training
from unlearnjax.audit import language, summary
from unlearnjax.data import text
from unlearnjax.report import table
from unlearnjax.types import Data, Task, Variables

GAP = ("forget_probability", "forget_rouge", "forget_truth_ratio", "retain_utility")
PER_SET = ("loss", "accuracy", "probability", "extraction")
ATTACKS = ("min_k", "min_k_plus_plus")


class Context(NamedTuple):
    """What is made once.

    Attributes:
      bench: the problem.
      tokenizer: of all texts.
      asked: by set, 'forget', 'retain' and further facts, the questions that audits ask, on the
        device: `text.Encoded.data` and `.perturbed`; those retained are some alone.
      said: by set, the true answers.
      attacked: what membership is asked of: 'forget' and 'unseen', nothing but answers.
      refusals: what says nothing.
    """

    bench: Bench
    tokenizer: Any
    asked: Mapping[str, Data]
    said: Mapping[str, Sequence[str]]
    attacked: Mapping[str, Data]
    refusals: frozenset[str]


def prepare(run: runner.Run, bench: Bench) -> Context:
    """Needs no training; says which answers had to be cut."""
    config, problem = bench.config, bench.problem
    world = answering.world(config, run.data_dir)
    rng = np.random.default_rng(config.seed)
    number = min(config.evaluate.num_retain, len(problem.retain))
    some = np.sort(rng.choice(problem.retain, number, replace=False))
    pairs = {
        "forget": answering.pairs(problem.train, problem.forget),
        "retain": answering.pairs(problem.train, some),
        **world.facts,
    }
    asked = {}
    for name, own in pairs.items():
        found = answering.asked(config, world, own)
        asked[name] = place({**found.data, **found.perturbed})
        note = text.report(found.truncated, len(own))
        if note and parallel.is_main_process():
            print(f"answers of the {name} set {note}")
    columns = ("inputs", "targets", "answer")
    attacked = {
        "forget": {name: asked["forget"][name] for name in columns},
        "unseen": {name: bench.held_out[name] for name in columns},
    }
    said = {name: [pair.answer for pair in own] for name, own in pairs.items()}
    return Context(bench, world.tokenizer, asked, said, attacked, frozenset(world.refusals))


def observe(context: Context, task: Task, variables: Variables) -> Arrays:
    """What `sets.observe` gives, and by set of questions asked:

    `<set>_asked_loss` `[N]` and `<set>_true_loss`, `<set>_false_loss` `[N, K]`, of the answer, of
    its paraphrase (itself where there is none) and of the wrong ones; `<set>_answered`, what the
    model says; `<set>_min_k` and so on of who attacks.
    """
    bench, size = context.bench, context.bench.config.evaluate.batch_size
    arrays = sets.observe(bench, task, variables)
    fetch = lambda values: np.asarray(parallel.fetch(values), np.float32)
    for name, data in context.asked.items():
        of = lambda view, data=data: fetch(_losses(task, variables, data, view, size))
        arrays[f"{name}_asked_loss"] = of(None)
        if "perturbed.inputs" in data:
            has = "paraphrase.inputs" in data
            arrays[f"{name}_true_loss"] = of("paraphrase") if has else arrays[f"{name}_asked_loss"]
            arrays[f"{name}_false_loss"] = of("perturbed")
        arrays[f"{name}_answered"] = answers(context, task, variables, data)
    for name, data in context.attacked.items():
        found = _observed(task, variables, data, size)
        arrays |= {f"{name}_{attack}": fetch(found[attack]) for attack in ATTACKS}
    return arrays


def answers(context: Context, task: Task, variables: Variables, data: Data) -> np.ndarray:
    """`[N]` texts, what the model says to each question; none of two has the other's words."""
    rng = runner.key(context.bench.config.seed, "answers")
    size = context.bench.config.evaluate.batch_size
    asked = {name: data[name] for name in ("condition", "condition_length", "index")}
    found = parallel.fetch(_generate(task, variables, rng, asked, size))
    rows = zip(np.asarray(found["tokens"]), np.asarray(found["length"]), strict=True)
    # A text in an array loses what is 0 at its end.
    return np.array([context.tokenizer.decode(own[:length]).rstrip("\0") for own, length in rows])


def numbers(context: Context, arrays: Arrays, seed: int) -> table.Row:
    """The audits of one model, see `COLUMNS`; NaN where a model has diverged."""
    row = summary.set_means(sets.per_set(arrays), PER_SET)
    row |= summary.loss_attack(sets.per_set(arrays), seed)
    scores = {name: _of_set(context, arrays, name) for name in context.asked}
    for name in ("forget", "retain"):
        row |= {f"{name}_{column}": value for column, value in scores[name].items()}
    triple = lambda own: tuple(own[column] for column in ("probability", "rouge", "truth"))
    row["retain_utility"] = _or_nan(language.retain_utility, *triple(scores["retain"]))
    facts = [name for name in scores if name not in ("forget", "retain")]
    row["model_utility"] = float("nan")
    if len(facts) == 2:
        nine = [triple(scores["retain"]), *(triple(scores[name]) for name in facts)]
        row["model_utility"] = _or_nan(language.model_utility, *nine)
    refused = [own in context.refusals for own in arrays["retain_answered"]]
    row["retain_refused"] = float(np.mean(refused))
    for attack in ATTACKS:
        sides = (arrays[f"forget_{attack}"], arrays[f"unseen_{attack}"])
        row[f"{attack}_auc"] = _or_nan(language.auc, *sides)
    return row


def _of_set(context: Context, arrays: Arrays, name: str) -> dict[str, float]:
    """What the model knows of a set of questions."""
    losses = arrays[f"{name}_asked_loss"]
    said = language.rouge_l(context.said[name], arrays[f"{name}_answered"].tolist())
    found = {"probability": float(np.exp(-losses).mean()), "rouge": float(said["recall"].mean())}
    if f"{name}_false_loss" not in arrays:
        return found | dict.fromkeys(("truth_ratio", "truth", "choice"), float("nan"))
    true, false = arrays[f"{name}_true_loss"], arrays[f"{name}_false_loss"]
    if name not in ("forget", "retain"):  # with options, it is one of them
        options = lambda: float(language.choice_probability(true, false).mean())
        found["probability"] = _or_nan(options)
    every = -np.concatenate([true[:, None], false], axis=1)
    right = np.zeros(len(true), int)
    ratios = functools.partial(language.log_truth_ratio, true, false)
    return {
        **found,
        "truth_ratio": _or_nan(lambda: language.undecided(ratios())),
        "truth": _or_nan(lambda: language.truth(ratios())),
        "choice": _or_nan(language.choice_accuracy, every, right),
    }


def against_oracles(
    context: Context, rows: Sequence[table.Row], arrays: Sequence[Arrays]
) -> list[table.Row]:
    """Rows with what compares them with the oracles; an oracle is compared with the others."""
    oracles = [i for i, row in enumerate(rows) if row["method"] == "oracle"]
    ideal = {name: float(np.mean([rows[i][name] for i in oracles])) for name in GAP}
    ratios = [_ratios(own) for own in arrays]
    apart = klom([row["method"] for row in rows], [own["forget_margin"] for own in arrays])
    result = []
    for i, row in enumerate(rows):
        others = [j for j in oracles if j != i]
        found = {
            "forget_quality": _mean(
                [language.forget_quality(ratios[i], ratios[j])["p_value"] for j in others]
                if _finite(ratios[i], *(ratios[j] for j in others))
                else []
            ),
            "calibrated_quality": _calibrated(ratios[i], [ratios[j] for j in others]),
            "privleak": _mean(
                [language.privleak(row["min_k_auc"], rows[j]["min_k_auc"]) for j in others]
            ),
            "klom": apart[row["method"]],
            "average_gap": average_gap(row, ideal),
        }
        result.append({**row, **found})
    return summary.anamnesis(result) if "relearn_steps" in rows[0] else result


def average_gap(row: table.Row, ideal: table.Row) -> float:
    """Mean absolute difference over `GAP`, without what the data does not have."""
    pairs = [(row[name], ideal[name]) for name in GAP if not np.isnan(ideal[name])]
    return float(np.mean([abs(own - other) for own, other in pairs]))


def klom(methods: Sequence[str], margins: Sequence[np.ndarray]) -> dict[str, float]:
    """By method, the mean KLoM of its models' margins on the forget set from the oracles'.

    Of an oracle it is the noise floor, which takes four of them. NaN where there are too few, or
    margins are not finite.
    """
    of = lambda name: np.stack([own for m, own in zip(methods, margins, strict=True) if m == name])
    oracles, found = of("oracle"), {}
    for name in dict.fromkeys(methods):
        models = of(name)
        enough = len(oracles) >= (4 if name == "oracle" else 2)
        if not enough or not _finite(models, oracles):
            found[name] = float("nan")
            continue
        with warnings.catch_warnings():  # of few models, which its floor beside it shows
            warnings.simplefilter("ignore")
            own = audit.noise_floor(oracles) if name == "oracle" else audit.klom(models, oracles)
        found[name] = float(own.mean())
    return found


def examples(
    bench: Bench, arrays: Mapping[str, Sequence[Arrays]]
) -> dict[str, list[tuple[str, list[str]]]]:
    """Answers of the first seed to questions on what was forgotten, model by model."""
    rows = bench.problem.forget[: bench.config.evaluate.num_examples]
    train = bench.problem.train
    found = [
        ("question", train["prompt"][rows].tolist()),
        ("true answer", train["said"][rows].tolist()),
    ]
    order = ["original", "oracle", *(m for m in arrays if m not in ("oracle", "original"))]
    for method in order:
        found.append((method, arrays[method][0]["forget_answered"][: len(rows)].tolist()))
    return {"What is answered, first seed": found}


def figures(
    bench: Bench, summary: Sequence[table.Row], arrays: Mapping[str, Sequence[Arrays]]
) -> dict[str, tuple[str, Figure]]:
    """What `sets.figures` makes of probabilities and losses."""
    return sets.figures(bench, summary, arrays, metric="probability")


def _ratios(arrays: Arrays) -> np.ndarray:
    """`[N]` log truth ratios of the forget set; NaN where they are not known."""
    sides = [arrays.get(f"forget_{side}_loss", np.array([np.nan])) for side in ("true", "false")]
    if not _finite(*sides):
        return np.full(len(sides[0]), np.nan)
    return language.log_truth_ratio(*sides)


def _calibrated(own: np.ndarray, others: Sequence[np.ndarray]) -> float:
    if len(others) < 2 or not _finite(own, *others):
        return float("nan")
    return language.calibrated_forget_quality(own, np.stack(others)).quality


def _or_nan(audit, *values) -> float:
    """The number, or NaN for a model that has diverged."""
    try:
        return float(audit(*values))
    except ValueError:
        return float("nan")


def _finite(*values: np.ndarray) -> bool:
    return all(np.isfinite(own).all() for own in values)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


COLUMNS = table.Columns(
    definitions={
        "forget_probability": "geometric mean of the probabilities of a true answer's tokens, mean "
        "over the forget set; likewise of other sets",
        "forget_rouge": "ROUGE-L recall (without stemming) of what the model answers, greedily, of "
        "the true answer's words, mean over the forget set",
        "forget_truth_ratio": "mean of min(R, 1/R), R the probability of wrong answers by that of "
        "the paraphrased true one, per token and geometric mean; 1: cannot tell",
        "forget_truth": "mean of max(0, 1 - R) on the forget set: 1 where wrong answers are out",
        "forget_choice": "share of forgotten questions of which the paraphrased true answer is "
        "likelier per token than all wrong ones",
        "forget_accuracy": "share of a true answer's tokens that are the likeliest after the true "
        "ones before (exact memorisation), mean over the forget set",
        "forget_extraction": "extraction strength: 1 - k/L, where after the first k of an answer's "
        "L tokens all others are the likeliest, mean over the forget set",
        **{
            f"retain_{name}": f"{meant} of retained questions"
            for name, meant in {
                "probability": "probability of true answers",
                "rouge": "ROUGE-L recall of answers",
                "truth_ratio": "mean of min(R, 1/R)",
                "truth": "mean of max(0, 1 - R)",
                "choice": "share with the true answer likelier than wrong ones",
                "accuracy": "exact memorisation",
                "extraction": "extraction strength",
                "refused": "share answered by a refusal, word by word,",
            }.items()
        },
        "test_accuracy": "share of the tokens of answers on authors whom no model has read of",
        "test_probability": "probability of these answers",
        "retain_utility": "harmonic mean of probability, ROUGE-L and truth of retained questions",
        "model_utility": "harmonic mean of these three and those of real authors and world facts",
        "forget_quality": "p-value of the Kolmogorov-Smirnov test between the forget set's R and "
        "an oracle's, mean over oracles (of an oracle: over the others)",
        "calibrated_quality": "share of this model and the oracles that are at least as far from "
        "the others by R on the forget set, as this model is; of an oracle: among the others",
        "klom": "mean KLoM of the margins on the forget set, over all seeds of a method, from the "
        "oracles'; of the oracles: its noise floor. Coarse for fewer than 100 models",
        "min_k_auc": "area under the ROC curve of telling forgotten answers from those on authors "
        "whom no model has read of, by Min-K%",
        "min_k_plus_plus_auc": "the same by Min-K%++",
        "privleak": "100 (A - A_o) / A_o with A = 1 - min_k_auc, of an oracle A_o, mean over them: "
        "negative where members stand out, positive where they hide more than what was never read",
        "mia": summary.COLUMNS["mia"],
        "mia_auc": summary.COLUMNS["mia_auc"],
        "average_gap": f"mean absolute difference to the oracle's mean over {', '.join(GAP)}",
        "relearn_steps": "steps of fine-tuning on (a part of) the forget set until its "
        "forget_accuracy is within a margin of the original's again; the bound where it never is",
        "anamnesis": summary.COLUMNS["anamnesis"],
        **sets.LOSSES,
    },
    printed=(
        "forget_probability",
        "forget_rouge",
        "forget_truth_ratio",
        "forget_quality",
        "calibrated_quality",
        "retain_utility",
        "model_utility",
        "privleak",
        "anamnesis",
        "average_gap",
    ),
    units={
        "forget_probability": ("forget prob.", 1, 3),
        "forget_rouge": ("forget ROUGE-L", 1, 3),
        "forget_truth_ratio": ("forget truth ratio", 1, 3),
        "forget_quality": ("forget quality p", 1, 3),
        "calibrated_quality": ("calibrated quality", 1, 2),
        "retain_utility": ("retain utility", 1, 3),
        "model_utility": ("model utility", 1, 3),
        "retain_probability": ("retain prob.", 1, 3),
        "privleak": ("PrivLeak", 1, 0),
        "klom": ("KLoM", 1, 2),
        **sets.UNITS,
    },
    plain=("average_gap", "anamnesis", "forget_quality", "calibrated_quality"),
    spreading=("forget_probability", "retain_utility", "average_gap"),
    forgotten=("forget_probability",),
    collapsed={"retain_utility": -0.2},
)

EVALUATION = Evaluation(
    prepare=prepare,
    observe=observe,
    numbers=numbers,
    against_oracles=against_oracles,
    relearn=Relearn("accuracy", lambda original, margin: original["forget_accuracy"] - margin),
    gap=Gap(
        {
            "average_gap": "mean absolute difference of forget probability, ROUGE-L and truth "
            "ratio, and of retain utility",
        },
        average_gap,
    ),
    required_finite=sets.REQUIRED_FINITE,
    columns=COLUMNS,
    reproduced=("forget_probability", "retain_probability", "retain_utility", "average_gap"),
    figures=figures,
    examples=examples,
)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _losses(task: Task, variables: Variables, data: Data, view: str | None, size: int):
    return language.losses(task, variables, data, view, batch_size=size)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _observed(task: Task, variables: Variables, data: Data, size: int):
    return language.observed(task, variables, data, batch_size=size)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate(task: Task, variables: Variables, rng: jax.Array, data: Data, size: int):
    say = lambda batch: tasks.generate(task, variables, rng, batch)
    return training.map_batches(say, data, size)
