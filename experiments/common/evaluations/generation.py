"""Generation by class: what judges see in samples, distances to real images and to the oracle's.

Every model draws the same answer set, so many images of every class, from the same noise.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.common import build, runner
from experiments.common import judges as judges_lib
from experiments.common.evaluations import BY_LOSS, Arrays, Evaluation, Gap, sets
from experiments.common.measure import Bench, place
from unlearnjax import diffusion, parallel
from unlearnjax.audit import generation, summary
from unlearnjax.data import corruption
from unlearnjax.report import sample_plots, table
from unlearnjax.types import Data, Task, Variables

GAP = ("unlearning_accuracy", "retained_accuracy", "precision", "recall")
DISTANCES = ("fd", "kd", "precision", "recall")


class Context(NamedTuple):
    """What is made once.

    Attributes:
      bench: the problem.
      judges: who look at samples.
      answers: `condition` and `index` of the answer set, class by class in turn, on the device.
      forgotten: the classes that are forgotten as a whole.
      real: what each judge makes of real images that nothing was trained on, of the other classes.
      floor: `DISTANCES` of as many real images from these.
      size: how many images of either side every distance is between, as they depend on it.
    """

    bench: Bench
    judges: judges_lib.Judges
    answers: Data
    forgotten: tuple[int, ...]
    real: list[judges_lib.Opinion]
    floor: Mapping[str, float]
    size: int


def prepare(run: runner.Run, bench: Bench) -> Context:
    """Trains the judges; says first how good they are.

    Raises:
      ValueError: for a forget set that changes the data, conditions that a method cannot forget
        (see `build.validate_request`), and judges that real images confuse.
    """
    config, problem = bench.config, bench.problem
    if config.forget.partition(":")[0] in corruption.KINDS:
        raise ValueError(
            f"forget must leave the data as it is where classes are drawn, got {config.forget!r}"
        )
    build.validate_request(config, problem)
    judges = judges_lib.train(bench, run)
    real = judges_lib.pixels(problem.held_out["inputs"])
    opinions = judges_lib.judge(judges, real)
    right = judges_lib.accuracies(opinions, problem.held_out["targets"])
    require(right, config.evaluate.judges.least_real, "real images", "evaluate.judges.train")
    number = config.evaluate.answers.per_class
    index = np.arange(number * problem.dataset.num_classes, dtype=np.int32)
    answers = {"condition": index % problem.dataset.num_classes, "index": index}
    gone = forgotten_classes(bench)
    answered = number * (problem.dataset.num_classes - len(gone))
    size = min(answered, len(problem.test), len(problem.retain))
    test, retain = (some(rows, size) for rows in (problem.test, problem.retain))
    others = [judges_lib.Opinion(*(values[test] for values in opinion)) for opinion in opinions]
    context = Context(bench, judges, place(answers), gone, others, {}, size)
    retained = judges_lib.judge(judges, judges_lib.pixels(problem.train["inputs"][retain]))
    return context._replace(floor=_distances(context, others, retained))


def forgotten_classes(bench: Bench) -> tuple[int, ...]:
    """Those of which no example is left."""
    targets = np.asarray(bench.problem.train["targets"])
    left = np.unique(targets[bench.problem.retain])
    return tuple(np.setdiff1d(targets[bench.problem.forget], left).tolist())


def approve(context: Context, arrays: Sequence[Arrays]) -> None:
    """Says what each judge recognises of each original's samples.

    Raises:
      ValueError: if one of these is too little: whether something is forgotten could then not be
        seen.
    """
    broken = int(np.sum([own["broken"] for own in arrays]))
    if broken:
        raise ValueError(
            f"{broken} of the originals' samples are not finite; lower config.train's learning_rate"
        )
    least = context.bench.config.evaluate.judges.least_samples
    drawn_for = np.asarray(parallel.fetch(context.answers["condition"]))
    by_model = [
        judges_lib.accuracies(judges_lib.judge(context.judges, own["images"]), drawn_for)
        for own in arrays
    ]
    require(np.ravel(by_model), least, "the originals' samples", "config.train")


def observe(context: Context, task: Task, variables: Variables) -> Arrays:
    """Losses per example, `images` `[N, H, W, C]` in bytes, `broken`: how many are not finite."""
    bench = context.bench
    rng = runner.key(bench.config.seed, "answers")
    size = bench.config.evaluate.batch_size
    images = parallel.fetch(draw(task, variables, rng, context.answers, batch_size=size))
    broken = (~np.isfinite(np.asarray(images, np.float32))).any(axis=(1, 2, 3)).sum()
    return {
        **sets.observe(bench, task, variables),
        "images": judges_lib.pixels(images),
        "broken": np.asarray(broken),
    }


def numbers(context: Context, arrays: Arrays, seed: int) -> table.Row:
    """Losses and membership by them, what the judges say, and distances to real images.

    Of a model that draws what is no image, what depends on samples is NaN.
    """
    per_set = sets.per_set(arrays)
    row = summary.set_means(per_set, ("loss",)) | summary.loss_attack(per_set, seed)
    opinions = judges_lib.judge(context.judges, arrays["images"])
    drawn_for = np.asarray(parallel.fetch(context.answers["condition"]))
    judged = [generation.judged(own.probs, drawn_for, context.forgotten) for own in opinions]
    said = [own.probs.argmax(1) for own in opinions]
    near = _distances(context, context.real, _retained(context, opinions))
    seen = {
        **{name: float(np.mean([own[name] for own in judged])) for name in judged[0]},
        "judges_agree": float((said[0] == said[1]).mean()),
        **near,
    }
    if arrays["broken"]:
        seen = dict.fromkeys(seen, float("nan"))
    return {**row, **seen, **{f"{name}_floor": value for name, value in context.floor.items()}}


average_gap = functools.partial(sets.average_gap, names=GAP)


def against_oracles(
    context: Context, rows: Sequence[table.Row], arrays: Sequence[Arrays]
) -> list[table.Row]:
    """Rows with `average_gap`, and means over oracles (of an oracle: over the others) of distances.

    NaN where one of the two draws what is no image.
    """
    oracles = [i for i, row in enumerate(rows) if row["method"] == "oracle"]
    ideal = {name: float(np.mean([rows[i][name] for i in oracles])) for name in GAP}
    opinions = [judges_lib.judge(context.judges, own["images"]) for own in arrays]
    whole = lambda i: not arrays[i]["broken"]
    result = []
    for i, row in enumerate(rows):
        others = [j for j in oracles if j != i]
        found = [_apart(context, opinions[j], opinions[i]) for j in others if whole(i) and whole(j)]
        names = ("total_variation", *(f"{name}_oracle" for name in DISTANCES))
        complete = found and len(found) == len(others)
        mean = lambda k, found=found: float(np.mean([own[k] for own in found]))
        distances = {k: mean(k) if complete else float("nan") for k in names}
        result.append({**row, **distances, "average_gap": average_gap(row, ideal)})
    return summary.anamnesis(result) if "relearn_steps" in rows[0] else result


def figures(
    bench: Bench, summary: Sequence[table.Row], arrays: Mapping[str, Sequence[Arrays]]
) -> dict[str, tuple[str, Figure]]:
    """Samples of every method, and what `sets.figures` makes of the losses."""
    dataset, gone = bench.problem.dataset, forgotten_classes(bench)
    order = ["oracle", "original", *(m for m in arrays if m not in ("oracle", "original"))]
    samples = {
        method: arrays[method][0]["images"].reshape(
            -1, dataset.num_classes, *arrays[method][0]["images"].shape[1:]
        )
        for method in order
    }
    grid = sample_plots.grid(samples, dataset.class_names, gone)
    caption = (
        "Samples by class, of the first seed: the same noise in every row. Forgotten classes are "
        "set off; what an oracle draws there was never taught to it."
    )
    losses = sets.figures(bench, summary, arrays, metric="loss", scale=1, unit="squared error")
    return {"samples": (caption, grid), **losses}


def require(right: Sequence[float], least: float, what: str, remedy: str) -> None:
    """Prints how often each judge is right; raises `ValueError` if one is below `least`."""
    shares = ", ".join(f"{100 * share:.1f} %" for share in right)
    if parallel.is_main_process():
        print(f"judges are right on {shares} of {what}")
    if not np.min(right) >= least:
        raise ValueError(
            f"judges must be right on {100 * least:g} % of {what}, are on {shares}: nothing is "
            f"erased; train longer ({remedy}), or lower evaluate.judges"
        )


def _retained(
    context: Context, opinions: Sequence[judges_lib.Opinion], others: bool = True
) -> list[judges_lib.Opinion]:
    """Of the answers for classes that are kept; or, without `others`, for those forgotten."""
    gone = np.isin(parallel.fetch(context.answers["condition"]), context.forgotten)
    rows = gone != others
    return [judges_lib.Opinion(*(values[rows] for values in own)) for own in opinions]


def _apart(context: Context, oracle: list, own: list) -> dict[str, float]:
    """How far one model's answers are from an oracle's, mean over the judges."""
    near = _distances(context, _retained(context, oracle), _retained(context, own))
    distances = {f"{name}_oracle": value for name, value in near.items()}
    if not context.forgotten:
        return {**distances, "total_variation": float("nan")}
    shares = [
        [generation.class_shares(x.probs) for x in _retained(context, opinions, others=False)]
        for opinions in (oracle, own)
    ]
    pairs = zip(*shares, strict=True)
    varied = float(np.mean([generation.total_variation(*pair) for pair in pairs]))
    return {**distances, "total_variation": varied}


def _distances(context: Context, one: list, other: list) -> dict[str, float]:
    """`DISTANCES` between `context.size` images of each, mean over the judges."""
    num_neighbours = context.bench.config.evaluate.answers.num_neighbours

    def of(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        a, b = (x[some(np.arange(len(x)), context.size)] for x in (a, b))
        fits = context.size > num_neighbours
        balls = generation.precision_recall(a, b, num_neighbours=num_neighbours) if fits else {}
        return {
            "fd": generation.frechet_distance(a, b),
            "kd": generation.kernel_distance(a, b),
            "precision": balls.get("precision", float("nan")),
            "recall": balls.get("recall", float("nan")),
        }

    pairs = zip(one, other, strict=True)
    found = [of(a.features, b.features) for a, b in pairs]
    return {name: float(np.mean([own[name] for own in found])) for name in DISTANCES}


def some(rows: np.ndarray, size: int) -> np.ndarray:
    """At most so many of them, the same in every call, in order."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:size])


draw = jax.jit(diffusion.draw_images, static_argnums=0, static_argnames="batch_size")


_FLOOR = "; its floor is that of as many real training images"
_ORACLE = (
    " to an oracle's samples from the same noise, mean over oracles (an oracle's to the others)"
)
_ONE_STEP = (
    "; of a generator of one step (score_forgetting), which is asked at one time alone, no more "
    "than what its network says at the times that nobody asks it about"
)
COLUMNS = table.Columns(
    definitions={
        "unlearning_accuracy": "UA: 1 - share of the samples drawn for the forgotten classes that "
        "a judge takes for one of them; as all that follows the mean over both judges",
        "retained_accuracy": "share of the samples drawn for the other classes that a judge takes "
        "for the class they were drawn for",
        "p_forgotten": "mean probability that a judge gives the forgotten classes in the samples "
        "drawn for them",
        "entropy": "mean entropy in nats of a judge's prediction for the samples drawn for the "
        "forgotten classes: low where they became another class, high where they are noise",
        "judges_agree": "share of all samples that both judges take for the same class",
        "total_variation": "total variation distance, for the forgotten classes' samples, of the "
        "histogram of judged classes" + _ORACLE,
        "fd": "squared Frechet distance of a judge's features of the retained classes' samples to "
        "those of as many real test images (no FID, and on no scale but its own)" + _FLOOR,
        "kd": "unbiased squared kernel distance (MMD) of the same features" + _FLOOR,
        "precision": "share of the retained classes' samples within the real images' manifold of "
        "k-nearest-neighbour balls of a judge's features" + _FLOOR,
        "recall": "share of the real images within the manifold of those samples" + _FLOOR,
        "fd_oracle": "Frechet distance" + _ORACLE,
        "kd_oracle": "kernel distance" + _ORACLE,
        "precision_oracle": "precision" + _ORACLE,
        "recall_oracle": "recall" + _ORACLE,
        **{f"{name}_floor": f"{name} of real images to real images" for name in DISTANCES},
        "mia": "balanced accuracy of a cross-validated logistic regression on the denoising loss, "
        "mean over draws of time and noise, forget set against unseen examples of its "
        "distribution; 0.5 is chance" + _ONE_STEP,
        "mia_auc": "area under the ROC curve of that attack",
        "average_gap": "mean absolute difference to the oracle's mean over unlearning accuracy "
        "(where a class is forgotten as a whole), retained accuracy, precision and recall; an "
        "oracle's own is the spread between oracles",
        "relearn_steps": "steps of fine-tuning on (a part of) the forget set until its loss is "
        "back within a margin of the original's; the bound of steps where it never is" + _ONE_STEP,
        "anamnesis": "relearn_steps by the oracles' mean; ideal 1, below it relearns too fast",
        **sets.LOSSES,
    },
    printed=(
        "unlearning_accuracy",
        "p_forgotten",
        "entropy",
        "retained_accuracy",
        "fd",
        "fd_floor",
        "fd_oracle",
        "precision",
        "recall",
        "total_variation",
        "mia",
        "anamnesis",
        "average_gap",
    ),
    units={
        "unlearning_accuracy": ("UA %", 100, 1),
        "p_forgotten": ("p(forgotten) %", 100, 1),
        "retained_accuracy": ("retained %", 100, 1),
        "precision": ("precision %", 100, 1),
        "recall": ("recall %", 100, 1),
        "fd": ("FD", 1, 2),
        "fd_floor": ("FD real-real", 1, 2),
        "fd_oracle": ("FD to oracle", 1, 2),
        "total_variation": ("TV to oracle %", 100, 1),
        **sets.UNITS,
    },
    plain=("average_gap", "anamnesis", "fd_floor", "fd_oracle", "total_variation"),
    spreading=("unlearning_accuracy", "retained_accuracy", "average_gap"),
    forgotten=("unlearning_accuracy",),
    collapsed={"retained_accuracy": -0.2},
)

EVALUATION = Evaluation(
    prepare=prepare,
    observe=observe,
    numbers=numbers,
    against_oracles=against_oracles,
    relearn=BY_LOSS,
    gap=Gap(
        {
            "average_gap": "mean absolute difference of unlearning and retained accuracy, "
            "precision and recall"
        },
        average_gap,
    ),
    required_finite=(*sets.REQUIRED_FINITE, "retained_accuracy"),
    columns=COLUMNS,
    reproduced=(*GAP, "average_gap"),
    figures=figures,
    approve=approve,
    stages=judges_lib.names(),
)
