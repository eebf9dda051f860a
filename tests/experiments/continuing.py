"""A modality of its own, beside the house: continuing sequences of numbers.

Everything that is needed: data, a model, a task, an evaluation, a config.

    python -m experiments.unlearn --config=tests/experiments/continuing.py --workdir=/tmp/continuing
"""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from configs import unlearn
from experiments.common.evaluations import Evaluation, Gap, Relearn, sets
from unlearnjax import tasks
from unlearnjax.data import Dataset
from unlearnjax.report import table
from unlearnjax.types import Task

TOKENS, STEPS, PROMPT, LENGTH = 12, 4, 3, 8
HERE = "tests.experiments.continuing"


def sequences() -> Dataset:
    """Numbers modulo `TOKENS` that grow by a step of 1 to `STEPS`; the end is to be continued.

    `inputs` `[N, LENGTH]` are padded on the right with 0; `answer` is 1 where a token counts.
    `targets`, by which sequences are forgotten, number the steps.
    """

    def part(size, seed):
        rng = np.random.default_rng(seed)
        kind, first = rng.integers(STEPS, size=size), rng.integers(TOKENS, size=size)
        place = np.arange(LENGTH)
        there = place < rng.integers(PROMPT + 2, LENGTH + 1, size=size)[:, None]
        tokens = (first[:, None] + (kind[:, None] + 1) * place) % TOKENS
        answer = there & (place >= PROMPT)
        return {
            "inputs": np.where(there, tokens, 0).astype(np.int32),
            "targets": kind.astype(np.int32),
            "answer": answer.astype(np.float32),
        }

    names = tuple(f"plus {step + 1}" for step in range(STEPS))
    return Dataset(part(240, 0), part(120, 1), STEPS, names, np.zeros(1), np.ones(1))


class Recurrent(nn.Module):
    """The logits of every next token, `[B, LENGTH, TOKENS]`."""

    width: int = 32

    @nn.compact
    def __call__(self, x, train=False):
        hidden = nn.RNN(nn.SimpleCell(self.width))(nn.Embed(TOKENS, self.width)(x))
        return {"logits": nn.Dense(TOKENS)(hidden)}


def continuing(model: tasks.Model) -> Task:
    """Cross-entropy of the answer's tokens, each given all before it, averaged per sequence."""

    def averaged(values, batch):
        answer = batch["answer"][:, 1:]
        return (values * answer).sum(1) / answer.sum(1)

    def loss(outputs, batch):
        logits, following = outputs["logits"][:, :-1], batch["inputs"][:, 1:]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, following)
        return averaged(each, batch)

    def metrics(outputs, batch):
        right = outputs["logits"][:, :-1].argmax(-1) == batch["inputs"][:, 1:]
        return {"accuracy": averaged(right, batch)}

    def divergence(outputs, reference, batch, temperature=1.0):
        own, other = (x["logits"][:, :-1] / temperature for x in (outputs, reference))
        each = optax.kl_divergence(jax.nn.log_softmax(own), jax.nn.softmax(other))
        return temperature**2 * averaged(each, batch)

    return Task(model.init, model.apply, loss, metrics, divergence=divergence)


JUDGED = ("forget_accuracy", "retain_accuracy", "test_accuracy")


def numbers(bench, arrays, seed) -> table.Row:
    means = {name: float(x.mean()) if x.size else np.nan for name, x in arrays.items()}
    whole = float((arrays["forget_accuracy"] == 1).mean())
    return {**means, "forget_whole": whole}


def distance(row, ideal) -> float:
    return float(np.mean([abs(row[name] - ideal[name]) for name in JUDGED]))


def against_oracles(bench, rows, arrays) -> list[table.Row]:
    oracles = [row for row in rows if row["method"] == "oracle"]
    ideal = {name: np.mean([row[name] for row in oracles]) for name in JUDGED}
    return [{**row, "token_gap": distance(row, ideal)} for row in rows]


EVALUATION = Evaluation(
    prepare=lambda run, bench: bench,
    observe=sets.observe,
    numbers=numbers,
    against_oracles=against_oracles,
    relearn=Relearn("loss", lambda original, margin: original["forget_loss"] * (1 + margin)),
    gap=Gap({"token_gap": "mean absolute difference of the three accuracies"}, distance),
    required_finite=sets.REQUIRED_FINITE,
    columns=table.Columns(
        definitions={
            **{name: f"share of the {name[:-9]} set's answer tokens right" for name in JUDGED},
            "forget_whole": "share of the forget set's answers right from end to end",
            "token_gap": "mean absolute difference to the oracle's mean of these accuracies",
            **sets.LOSSES,
        },
        printed=(*JUDGED, "forget_whole", "token_gap"),
        units={"forget_accuracy": ("forget tokens %", 100, 1), "gap": ("gap", 100, 1)},
        plain=("token_gap",),
        spreading=JUDGED,
        forgotten=("forget_accuracy",),
        collapsed={"test_accuracy": -0.3},
    ),
    reproduced=(*JUDGED, "token_gap"),
    figures=partial(sets.figures, metric="accuracy"),
)

_ADAM = {"optimizer": "adam", "learning_rate": 1e-2, "batch_size": 32}
METHODS = {
    "scrub": {**_ADAM, "num_epochs": 4, "max_epochs": 3, "alpha": 0.1, "gamma": 0.9},
    "ssd": {"alpha": 0.5, "dampening": 0.5, "importance": "exact", "batch_size": 64},
}


def get_config(arg: str = "") -> ConfigDict:
    data = f"{HERE}:sequences"
    arg = unlearn.with_defaults(arg, data, model=f"{HERE}:Recurrent", forget="class:2", seeds="1")
    config = unlearn.get_config(arg, dataset=data, methods=METHODS, chosen=tuple(METHODS))
    config.task, config.evaluation = f"{HERE}:continuing", f"{HERE}:EVALUATION"
    config.train.learning_rate, config.train.num_epochs = 1e-2, 10
    config.rounding.num_perturbed, config.evaluate.relearn.max_steps = 0, 20
    return config
