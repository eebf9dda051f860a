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
from experiments.common.evaluations import BY_ACCURACY, Arrays, Evaluation, Gap, sets
from experiments.common.evaluations.language_columns import COLUMNS, GAP
from experiments.common.measure import Bench, place
from unlearnjax import audit, parallel, tasks, training
from unlearnjax.audit import language, summary
from unlearnjax.data import text
from unlearnjax.report import step_plots, table
from unlearnjax.types import Data, Task, Variables

# What is drawn against steps.
CURVES = {
    "forget_truth_ratio": "truth ratio of the forget set",
    "forget_quality": "forget quality (p)",
    "retain_utility": "retain utility",
}
PER_SET = ("loss", "accuracy", "probability", "extraction")
MIN_MODELS = 20  # of KLoM: of fewer its floor, of half as many oracles, says nothing of a method
ATTACKS = ("min_k", "min_k_plus_plus")
PROMPT = ("condition", "condition_length", "index")


class Context(NamedTuple):
    """What is made once. Data of all sets are one behind another, so that one program is for all.

    Attributes:
      bench: the problem.
      tokenizer: of all texts.
      answers: `inputs`, `targets`, `answer` of every answer that is asked about.
      places: by column of arrays, where in these it begins, and its shape.
      prompts: `condition`, `condition_length` and `index` of every question.
      said: by set, 'forget', 'retain' and further facts, the true answers; in the order of prompts.
      attacked: of whom membership is asked, first the forget set, then unseen answers.
      refusals: what says nothing.
    """

    bench: Bench
    tokenizer: Any
    answers: Data
    places: Mapping[str, tuple[int, tuple[int, ...]]]
    prompts: Data
    said: Mapping[str, Sequence[str]]
    attacked: Data
    refusals: frozenset[str]


def prepare(run: runner.Run, bench: Bench) -> Context:
    """Needs no training; says which answers had to be cut."""
    config, problem = bench.config, bench.problem
    world = answering.world(config, run.data_dir)
    rng = np.random.default_rng(config.seed)
    known = np.array([len(problem.train["wrong"][row]) > 0 for row in problem.retain])
    retain = problem.retain[known] if known.any() else problem.retain
    some = np.sort(rng.permutation(retain)[: config.evaluate.num_retain])
    pairs = {
        "forget": answering.pairs(problem.train, problem.forget),
        "retain": answering.pairs(problem.train, some),
        **world.facts,
    }
    asked = {}
    for name, own in pairs.items():
        asked[name] = answering.asked(config, world, own)
        note = text.report(asked[name].truncated, len(own))
        if note and parallel.is_main_process():
            print(f"answers of the {name} set {note}")
    answers, places = answering.stacked(asked)
    members = {name: problem.train[name][problem.forget] for name in answering.ANSWER}
    sides = (members, {name: problem.held_out[name] for name in answering.ANSWER})
    return Context(
        bench,
        world.tokenizer,
        place(answers),
        places,
        place(answering.joined([{n: own.data[n] for n in PROMPT} for own in asked.values()])),
        {name: [pair.answer for pair in own] for name, own in pairs.items()},
        place(answering.joined(sides)),
        frozenset(world.refusals),
    )


def approve(context: Context, arrays: Sequence[Arrays]) -> None:
    """Says how well each original knows what is to be forgotten.

    Raises:
      ValueError: if one of them hardly does, so that there is nothing to forget.
    """
    least = context.bench.config.evaluate.least_known
    known = [float(np.exp(-own["forget_asked_loss"]).mean()) for own in arrays]
    listed = ", ".join(f"{own:.2f}" for own in known)
    if parallel.is_main_process():
        print(f"originals give the answers to be forgotten a probability of {listed}")
    if not np.min(known) >= least:
        raise ValueError(
            f"originals must give the answers to be forgotten a probability of {least} or more, "
            f"got {listed}: there is nothing to forget; train longer (config.train), or lower "
            "evaluate.least_known"
        )


def observe(context: Context, task: Task, variables: Variables) -> Arrays:
    """What `sets.observe` gives, and by set of questions asked:

    `<set>_asked_loss` `[N]` and `<set>_true_loss`, `<set>_false_loss` `[N, K]`, of the answer, of
    its paraphrase (itself where there is none) and of the wrong ones; `<set>_answered`, what the
    model says, of the forget set also as `forget_said_tokens` and `forget_said_length`;
    `<set>_min_k` and so on of who attacks.
    """
    bench, size = context.bench, context.bench.config.evaluate.batch_size
    arrays = sets.observe(bench, task, variables)
    fetch = lambda values: np.asarray(parallel.fetch(values), np.float32)
    losses = fetch(_losses(task, variables, context.answers, size))
    for column, (begin, shape) in context.places.items():
        arrays[column] = losses[begin : begin + int(np.prod(shape))].reshape(shape)
    found = said(context, task, variables)
    number = len(bench.problem.forget)
    arrays |= {f"forget_said_{name}": value[:number] for name, value in found.items()}
    texts = iter(spelled(context, found))
    for name, true in context.said.items():
        arrays[f"{name}_answered"] = np.array([next(texts) for _ in true])
    found = _observed(task, variables, context.attacked, size, bench.config.evaluate.min_k)
    for attack in (own for own in ATTACKS if own in found):  # Min-K%++ needs logits
        scores = fetch(found[attack])
        arrays |= {f"forget_{attack}": scores[:number], f"unseen_{attack}": scores[number:]}
    return arrays


def said(context: Context, task: Task, variables: Variables) -> dict[str, np.ndarray]:
    """What the model says to each question, see `language.decode`."""
    rng = runner.key(context.bench.config.seed, "answers")
    size = context.bench.config.evaluate.batch_size
    found = parallel.fetch(_generate(task, variables, rng, context.prompts, size))
    return {name: np.asarray(value) for name, value in found.items()}


def spelled(context: Context, found: Mapping[str, np.ndarray]) -> list[str]:
    """The texts of it."""
    rows = zip(found["tokens"], found["length"], strict=True)
    # A text in an array loses what is 0 at its end.
    return [context.tokenizer.decode(own[:length]).rstrip("\0") for own, length in rows]


def under_oracle(context: Context, task: Task, oracle: Variables, arrays: Arrays) -> table.Row:
    """How likely an oracle finds what a model answers to forgotten questions, token by token."""
    number = len(context.said["forget"])
    prompts = {name: value[:number] for name, value in parallel.fetch(context.prompts).items()}
    answered = {name: arrays[f"forget_said_{name}"] for name in ("tokens", "length")}
    answers = place(language.continuations(prompts, answered))
    losses = _losses(task, oracle, answers, context.bench.config.evaluate.batch_size)
    return {"forget_said_loss": float(np.mean(parallel.fetch(losses)))}


def numbers(context: Context, arrays: Arrays, seed: int) -> table.Row:
    """The audits of one model, see `COLUMNS`; NaN where a model has diverged."""
    row = summary.set_means(sets.per_set(arrays), PER_SET)
    row |= summary.loss_attack(sets.per_set(arrays), seed)
    scores = {name: _of_set(context, arrays, name) for name in context.said}
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
        sides = (arrays.get(f"{side}_{attack}", [np.nan]) for side in ("forget", "unseen"))
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
        "truth_ratio": _or_nan(lambda: language.forget_truth(ratios())),
        "truth": _or_nan(lambda: language.retain_truth(ratios())),
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


average_gap = functools.partial(sets.average_gap, names=GAP)


def klom(methods: Sequence[str], margins: Sequence[np.ndarray]) -> dict[str, float]:
    """By method, the mean KLoM of its models' margins on the forget set from the oracles'.

    Of an oracle it is the noise floor. NaN where there are fewer than `MIN_MODELS`, or margins are
    not finite.
    """
    of = lambda name: np.stack([own for m, own in zip(methods, margins, strict=True) if m == name])
    oracles, found = of("oracle"), {}
    for name in dict.fromkeys(methods):
        models = of(name)
        enough = min(len(models), len(oracles)) >= MIN_MODELS
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
    """What `sets.figures` makes of probabilities and losses; and audits by steps, of `CURVES`."""
    found = sets.figures(bench, summary, arrays, metric="probability")
    config = bench.config
    runs = {
        method: {config.unlearn[name].num_steps: name for name in names}
        for method, names in config.curves.items()
    }
    if runs:
        found["steps"] = (
            "Methods stopped after so many steps on one way from the original on; the band is "
            "what oracles score, mean and standard deviation. Who passes through it forgot by "
            "being stopped.",
            step_plots.by_steps(summary, runs, CURVES),
        )
    return found


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


EVALUATION = Evaluation(
    prepare=prepare,
    observe=observe,
    numbers=numbers,
    against_oracles=against_oracles,
    under_oracle=under_oracle,
    relearn=BY_ACCURACY,
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
    approve=approve,
    examples=examples,
)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _losses(task: Task, variables: Variables, data: Data, size: int):
    return language.losses(task, variables, data, batch_size=size)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _observed(task: Task, variables: Variables, data: Data, size: int, share: float):
    return language.observed(task, variables, data, share=share, batch_size=size)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate(task: Task, variables: Variables, rng: jax.Array, data: Data, size: int):
    say = lambda batch: tasks.generate(task, variables, rng, batch)
    return training.map_batches(say, data, size)
