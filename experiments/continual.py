"""Learn and forget, request after request. See configs/continual.py.

python -m experiments.continual --config=configs/continual.py --workdir=/tmp/continual
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common import build, heads, measure, runner, streams
from unlearnjax import analytic, audit, checks, parallel, training
from unlearnjax import data as data_lib
from unlearnjax.report import html, plots, table

BACKBONES = ("inputs", "trained")
COLUMNS = {
    "incremental_accuracy": "test accuracy on the classes known so far, mean over the requests to "
    "learn",
    "forgetting": "by how much the test accuracy of a class that is still known fell from its "
    "best, mean over classes",
    "test_accuracy": "test accuracy at the end, on the classes that are still known",
    "unlearned_accuracy": "share of all forgotten training examples predicted right at the end",
    "retained_accuracy": "share of all examples that are left predicted right at the end",
    "agreement": "share of test predictions equal to those of the head's exact counterpart on what "
    "is left (ridge heads: solved from scratch; softmax heads: retrained), smallest over requests",
    "distance": "relative distance of its weight to that counterpart's, largest over requests",
    "seconds": "time of all requests, after compilation",
    "forget_seconds": "time of a request to forget, mean",
    "kilobytes": "what the head holds at the end: its state, and the rows that it must keep",
    "keeps": "what it must keep of past data",
}


def story(config: ConfigDict, run: runner.Run) -> None:
    """Every head on every stream."""
    validate(config)
    dataset = build.dataset(config, run.data_dir)
    parts = sampled(config, dataset)
    requests = {name: events(config, name, *parts) for name in config.streams}
    train, test = features(config, run, dataset, parts)
    run.start(len(config.streams) * len(config.methods))
    rows, curves = [], {}
    for stream, own in requests.items():
        contest = Contest(config, run, stream, own, train, test, dataset.num_classes, {})
        for method in ordered(config.methods):
            run.advance(f"{stream} {method}", 0)
            row, arrays = run.row(f"{stream}-{method}", lambda: follow(contest, method))  # noqa: B023
            contest.references[method] = arrays["weights"]
            curves.setdefault(stream, {})[method] = arrays
            rows.append(row)
            run.advance(f"{stream} {method}")
    run.progress.stop()
    report(config, run, rows, curves)


def validate(config: ConfigDict) -> None:
    """Raises `ValueError` before anything is computed."""
    checks.among(
        streams=(config.streams, tuple(streams.STREAMS)),
        methods=(config.methods, tuple(heads.NAMES)),
    )
    checks.one_of(backbone=(config.backbone, BACKBONES))
    checks.one_of(task=(config.task, ("classification",)))
    if not config.methods or not config.streams:
        raise ValueError(
            f"methods and streams must be at least one each, got {config.methods}, {config.streams}"
        )


def ordered(methods) -> list[str]:
    """The exact heads first: the others are compared with them."""
    exact = ["resolve", "retrain"]
    return exact + [m for m in methods if m not in exact]


def sampled(config: ConfigDict, dataset: data_lib.Dataset) -> list[dict]:
    """Training and test data, as many examples as the config takes of each."""
    rng = np.random.default_rng(config.seed)
    sizes = ((dataset.train, config.num_train), (dataset.test, config.num_test))
    return [data_lib.subsample(part, size, rng) for part, size in sizes]


def events(config: ConfigDict, stream: str, train: dict, test: dict) -> list[streams.Event]:
    """The requests of a stream.

    Raises:
      ValueError: if there are too few examples for it, or none of a class to test with.
    """
    targets = np.asarray(train["targets"])
    untested = np.setdiff1d(targets, test["targets"]).tolist()
    if untested:
        raise ValueError(f"test data must have examples of every class, got none of {untested}")
    own = streams.STREAMS[stream](targets, np.random.default_rng(config.seed))
    streams.validate(stream, own, len(targets))
    return own


def features(config: ConfigDict, run: runner.Run, dataset: data_lib.Dataset, parts: list[dict]):
    """Training and test data with the expanded features of a frozen backbone as inputs."""
    see = lambda part: part["inputs"].reshape(len(part["inputs"]), -1)
    if config.backbone == "trained":
        see = trained_features(config, run, dataset, parts[0])
    width = see({k: v[:1] for k, v in parts[0].items()}).shape[1]
    key = runner.key(config.seed, "projection")
    projection = analytic.random_projection(key, width, config.num_features)
    return [
        {
            "inputs": analytic.expand(projection, jnp.asarray(see(part))),
            "targets": jnp.asarray(part["targets"]),
            "index": jnp.asarray(part["index"]),
        }
        for part in parts
    ]


def trained_features(config, run, dataset, train):
    """The features of a model trained on the classes of the base phase, then frozen."""
    task = build.task(config, dataset)
    classes = np.unique(train["targets"])
    base = np.flatnonzero(np.isin(train["targets"], classes[: len(classes) // 2]))
    data_lib.validate_batch_size(config.train.batch_size, len(base), "config.train.batch_size")
    run.start(config.train.num_epochs)
    fitter = measure.fitter(config, task, measure.place(train), base)
    variables = fitter.fit(run, "backbone", runner.key(config.seed, "backbone")).variables
    return lambda part: training.outputs(task, variables, part)["features"]


class Contest(NamedTuple):
    """A stream that every head is to follow.

    Attributes:
      config, run: of the experiment.
      stream, events: its name and its requests.
      train, test: features and targets.
      num_classes: C.
      references: `{method: [requests, D, C]}`, the weights of the heads that have followed it.
    """

    config: ConfigDict
    run: runner.Run
    stream: str
    events: list[streams.Event]
    train: dict
    test: dict
    num_classes: int
    references: dict[str, np.ndarray]


def follow(contest: Contest, method: str) -> tuple[table.Row, dict[str, np.ndarray]]:
    """One head through a stream: its row, and by request its curves and weights."""
    config, run, stream, events, train, test, num_classes, references = contest
    rng = runner.key(config.seed, stream, method)
    head = heads.NAMES[method](config, train, num_classes, rng)
    state, programs = head.init(), {}
    targets, size = np.asarray(train["targets"]), len(train["targets"])
    left, gone = np.zeros(size), np.zeros(size, bool)
    best, curves, weights = {}, {}, []
    for number, event in enumerate(events):
        left[event.rows] = event.kind == "learn"
        gone[event.rows] = event.kind == "forget"
        batch = padded(train, event.rows)
        args = (state, batch, jnp.asarray(left, jnp.float32))
        shape = (event.kind, len(batch["weight"]))
        if shape not in programs:
            programs[shape] = audit.compile_costed(getattr(head, event.kind), *args)
        before = state
        state, cost = audit.timed(programs[shape], *args)
        weight = head.weight(state)
        weights.append(np.asarray(weight))
        if event.kind == "forget" and head.keeps == "nothing" and method.startswith("acu"):
            record = analytic.certificate(before, state, train["index"][event.rows], event.name)
            certify(run, f"{stream}-{method}-{number:04d}", record)
        reference = references.get(head.reference, weights)[number]
        guesses, ideal = predictions(weight, test), predictions(reference, test)
        by_class = class_accuracies(guesses, test["targets"], np.unique(targets[left > 0]))
        fell = [best[c] - a for c, a in by_class.items() if c in best]
        best.update({c: max(a, best.get(c, 0.0)) for c, a in by_class.items()})
        right = np.asarray(predictions(weight, train) == train["targets"])
        point = {
            "test_accuracy": float(np.mean(list(by_class.values()))),
            "forgetting": float(np.mean(fell)) if fell else 0.0,
            "unlearned_accuracy": float(right[gone].mean()) if gone.any() else np.nan,
            "retained_accuracy": float(right[left > 0].mean()),
            "agreement": float((guesses == ideal).mean()),
            "distance": float(np.linalg.norm(weight - reference) / np.linalg.norm(reference)),
            "seconds": cost.seconds,
            "learns": float(event.kind == "learn"),
        }
        for name, value in point.items():
            curves.setdefault(name, []).append(value)
    curves = {name: np.array(values) for name, values in curves.items()}
    learns = curves.pop("learns") > 0
    row = {
        "stream": stream,
        "method": method,
        "incremental_accuracy": float(curves["test_accuracy"][learns].mean()),
        **{
            name: float(curves[name][-1])
            for name in ("forgetting", "test_accuracy", "unlearned_accuracy", "retained_accuracy")
        },
        "agreement": float(curves["agreement"].min()),
        "distance": float(curves["distance"].max()),
        "seconds": float(curves["seconds"].sum()),
        "forget_seconds": float(curves["seconds"][~learns].mean()),
        "kilobytes": heads.nbytes(head, state, train, left) / 1000,
        "keeps": head.keeps,
    }
    return row, {**curves, "weights": np.stack(weights)}


def padded(data, rows: np.ndarray):
    """The rows as a batch, filled up with weight 0 to a power of two: few shapes to compile."""
    missing = (1 << (len(rows) - 1).bit_length()) - len(rows)
    return data_lib.take(data, jnp.asarray(np.r_[rows, np.full(missing, -1)], jnp.int32))


def predictions(weight, data) -> jax.Array:
    """`[n]` predicted classes."""
    return jnp.argmax(data["inputs"] @ weight, axis=1)


def class_accuracies(guesses, targets, classes: np.ndarray) -> dict[int, float]:
    """Accuracy on each of the classes."""
    right, targets = np.asarray(guesses == targets), np.asarray(targets)
    return {int(c): float(right[targets == c].mean()) for c in classes}


def certify(run: runner.Run, name: str, record: dict) -> None:
    """Keeps the certificate of a deletion."""
    if parallel.is_main_process():
        folder = run.workdir / "certificates"
        folder.mkdir(exist_ok=True)
        table.write_json(folder / f"{name}.json", record)


def report(config: ConfigDict, run: runner.Run, rows: list[table.Row], curves: dict) -> None:
    """Table, files and the curves over the streams."""
    title = f"Learning and forgetting in a stream: {config.dataset}"
    lead = (
        f"{config.num_features} random features of {config.backbone}; every head sees the same "
        "requests. `resolve` and `retrain` start over from all rows that are left at every request "
        "and are what ridge and softmax heads should equal."
    )
    cells = columns(rows)
    pages = {
        f"{stream}: request by request": plots.stream_curves(by_method)
        for stream, by_method in curves.items()
    }
    figures = {caption: html.figure_png(figure) for caption, figure in pages.items()}
    details = {"Configuration": config.to_yaml()}
    page = html.page(title, lead, cells, figures, COLUMNS, details)
    run.write_results(rows, rows, page, {"streams": list(config.streams)})
    names = dict(zip(curves, figures.values(), strict=True))
    run.write_figures(names)
    if parallel.is_main_process():
        table.print_columns(cells, title, "distance and agreement: worst over requests")
        print(f"report: {run.workdir / 'report.html'}")


def columns(rows: list[table.Row]) -> list[tuple[str, list[str]]]:
    """The printed table."""
    percent = lambda name: [f"{100 * row[name]:.1f}" for row in rows]
    return [
        ("stream", [row["stream"] for row in rows]),
        ("method", [row["method"] for row in rows]),
        ("incremental %", percent("incremental_accuracy")),
        ("forgetting", percent("forgetting")),
        ("test %", percent("test_accuracy")),
        ("unlearned %", percent("unlearned_accuracy")),
        ("retained %", percent("retained_accuracy")),
        ("agreement %", percent("agreement")),
        ("distance", [f"{row['distance']:.1e}" for row in rows]),
        ("time", [f"{1000 * row['seconds']:.0f} ms" for row in rows]),
        ("a deletion", [f"{1000 * row['forget_seconds']:.2f} ms" for row in rows]),
        ("holds", [f"{row['kilobytes']:.0f} kB" for row in rows]),
        ("keeps", [row["keeps"] for row in rows]),
    ]


if __name__ == "__main__":
    runner.launch(story, "continual")
