"""What is said of generators: on numbers given by hand, then of one that goes through all seams."""

import json
import types

import numpy as np
import pytest

from experiments.common import judges as judges_lib
from experiments.common.evaluations import generation as evaluation
from tests.experiments import cli
from unlearnjax.audit import generation

CONFIG = "tests/experiments/painting.py"
CLASSES, PER_CLASS = 3, 8
NUMBER = CLASSES * PER_CLASS


@pytest.fixture
def context(monkeypatch):
    """Judges who say what is given; three classes, of which 1 is forgotten."""
    monkeypatch.setattr(judges_lib, "judge", lambda judges, pixels: OPINIONS[int(pixels[0])])
    answers = types.SimpleNamespace(per_class=PER_CLASS, num_neighbours=3)
    judges = types.SimpleNamespace(least_samples=0.5, least_real=0.5)
    evaluate = types.SimpleNamespace(answers=answers, judges=judges)
    bench = types.SimpleNamespace(config=types.SimpleNamespace(evaluate=evaluate))
    index = np.arange(NUMBER)
    floor = dict.fromkeys(evaluation.DISTANCES, 0.25)
    real = [judges_lib.Opinion(None, x) for x in features(9, 12)]
    answers = {"condition": index % CLASSES, "index": index}
    return evaluation.Context(bench, None, answers, (1,), real, floor, 12)


def features(seed, size):
    return np.random.default_rng(seed).normal(seed / 5, 1, (2, size, 2))


def opinions(seed):
    probs = np.random.default_rng(seed).dirichlet(np.ones(CLASSES), (2, NUMBER))
    return [judges_lib.Opinion(p, x) for p, x in zip(probs, features(seed, NUMBER), strict=True)]


OPINIONS = {seed: opinions(seed) for seed in range(4)}
CONDITION = np.arange(NUMBER) % CLASSES


def arrays(seed, broken=0):
    losses = {
        f"{name}_loss": np.random.default_rng(seed).random(6) for name in evaluation.sets.SETS
    }
    return {**losses, "images": np.full(NUMBER, seed), "broken": np.asarray(broken)}


def test_numbers_are_means_over_the_judges(context):
    row = evaluation.numbers(context, arrays(0), seed=0)
    first, second = OPINIONS[0]
    for name, value in generation.judged(first.probs, CONDITION, (1,)).items():
        other = generation.judged(second.probs, CONDITION, (1,))[name]
        assert row[name] == pytest.approx((value + other) / 2)
    agree = first.probs.argmax(1) == second.probs.argmax(1)
    assert row["judges_agree"] == agree.mean() and 0 < agree.mean() < 1
    # Of 16 samples of the classes that stay as many are taken as there are real images.
    chosen = np.sort(np.random.default_rng(0).permutation(16)[:12])
    kept = [own.features[CONDITION != 1][chosen] for own in OPINIONS[0]]
    real = [own.features for own in context.real]
    pairs = list(zip(real, kept, strict=True))
    distance = np.mean([generation.frechet_distance(*pair) for pair in pairs])
    assert row["fd"] == pytest.approx(distance)
    assert row["kd"] == pytest.approx(np.mean([generation.kernel_distance(*p) for p in pairs]))
    balls = [generation.precision_recall(*pair) for pair in pairs]
    assert row["precision"] == pytest.approx(np.mean([own["precision"] for own in balls]))
    assert row["recall"] == pytest.approx(np.mean([own["recall"] for own in balls]))
    assert row["fd_floor"] == row["recall_floor"] == 0.25
    assert row["forget_loss"] == pytest.approx(arrays(0)["forget_loss"].mean())
    assert 0 <= row["mia"] <= 1


def test_of_samples_that_are_no_images_nothing_is_said(context):
    row = evaluation.numbers(context, arrays(0, broken=1), seed=0)
    whole = evaluation.numbers(context, arrays(0), seed=0)
    for name in (*evaluation.GAP, "fd", "kd", "entropy", "p_forgotten", "judges_agree"):
        assert np.isnan(row[name])
    assert row["forget_loss"] == whole["forget_loss"] and row["fd_floor"] == 0.25


def test_against_oracles_is_the_mean_over_the_other_ones(context):
    rows = [
        {"method": m, **dict.fromkeys(evaluation.GAP, 0.5)} for m in ("ssd", "oracle", "oracle")
    ]
    rows[0].update(recall=0.9, unlearning_accuracy=0.1)
    found = evaluation.against_oracles(context, rows, [arrays(seed) for seed in range(3)])
    gone = CONDITION == 1
    chosen = np.sort(np.random.default_rng(0).permutation(16)[:12])  # as many as of real images

    def apart(a, b):
        pairs = list(zip(OPINIONS[a], OPINIONS[b], strict=True))
        kept = [(x.features[~gone][chosen], y.features[~gone][chosen]) for x, y in pairs]
        shares = [[generation.class_shares(x.probs[gone]) for x in pair] for pair in pairs]
        return {
            "fd_oracle": np.mean([generation.frechet_distance(*pair) for pair in kept]),
            "precision_oracle": np.mean(
                [generation.precision_recall(*pair)["precision"] for pair in kept]
            ),
            "recall_oracle": np.mean(
                [generation.precision_recall(*pair)["recall"] for pair in kept]
            ),
            "total_variation": np.mean([generation.total_variation(*pair) for pair in shares]),
        }

    for name, value in apart(1, 0).items():
        assert found[0][name] == pytest.approx((value + apart(2, 0)[name]) / 2)
        assert found[1][name] == pytest.approx(apart(2, 1)[name])
    assert found[0]["precision_oracle"] != found[0]["recall_oracle"]
    assert found[0]["average_gap"] == pytest.approx(0.2) and found[1]["average_gap"] == 0
    assert "anamnesis" not in found[0]
    # One oracle has nothing to be compared with; one that broke is compared with nothing.
    alone = evaluation.against_oracles(context, rows[:2], [arrays(0), arrays(1)])
    assert np.isnan(alone[1]["fd_oracle"]) and alone[0]["fd_oracle"] == apart(1, 0)["fd_oracle"]
    given = [arrays(0), arrays(1), arrays(2, broken=3)]
    broken = evaluation.against_oracles(context, rows, given)
    assert np.isnan([row["fd_oracle"] for row in broken]).all()


def test_where_no_class_is_forgotten_as_a_whole_the_rest_is_said(context):
    context = context._replace(forgotten=())
    row = evaluation.numbers(context, arrays(0), seed=0)
    assert np.isnan(row["unlearning_accuracy"]) and np.isnan(row["entropy"])
    said = [own.probs.argmax(1) == CONDITION for own in OPINIONS[0]]
    assert row["retained_accuracy"] == pytest.approx(np.mean(said))
    rows = [{"method": "oracle", **row}, {"method": "ssd", **row, "retained_accuracy": 0.0}]
    _, found = evaluation.against_oracles(context, rows, [arrays(0), arrays(1)])
    assert np.isnan(found["total_variation"]) and found["fd_oracle"] > 0
    assert found["average_gap"] == pytest.approx(row["retained_accuracy"] / 3)


def test_originals_are_approved_by_what_the_judges_recognise(context, capsys):
    said = [[own.probs.argmax(1) == CONDITION for own in OPINIONS[seed]] for seed in (0, 1)]
    shares = 100 * np.mean(said, axis=2)
    judges = context.bench.config.evaluate.judges
    judges.least_samples = shares.min() / 100 - 0.01
    evaluation.approve(context, [arrays(0), arrays(1)])
    each = ", ".join(f"{share:.1f} %" for share in shares.ravel())
    assert capsys.readouterr().out == f"judges are right on {each} of the originals' samples\n"
    # The worst judge of the worst original decides, however good the others are.
    assert shares.min() < shares.min(axis=0).max() and shares.min() < shares.min(axis=1).max()
    judges.least_samples = shares.min() / 100 + 0.001
    with pytest.raises(ValueError, match="of the originals' samples, are on .* nothing is erased"):
        evaluation.approve(context, [arrays(0), arrays(1)])
    judges.least_samples = 0.0
    nothing = {**arrays(0), "broken": np.asarray(3)}
    with pytest.raises(ValueError, match="3 of the originals' samples are not finite"):
        evaluation.approve(context, [nothing])


@pytest.mark.parametrize(
    ("forget", "retained", "test", "size"), [((1,), 50, 30, 16), ((1,), 50, 9, 9), ((), 12, 30, 12)]
)
def test_every_distance_of_a_run_is_between_as_many_images(
    forget, retained, test, size, monkeypatch
):
    """Of answers of the classes that stay, of real test images and of training images."""
    config = cli.make_config(CONFIG, "--config.evaluate.answers.per_class=8")
    config.evaluate.judges.least_real = 0.0
    number = retained + 10

    def judge(judges, pixels):
        probs = np.full((len(pixels), CLASSES), 1 / CLASSES)
        return [judges_lib.Opinion(probs, x) for x in features(0, len(pixels))]

    sizes = []

    def distance(a, b):
        sizes.append((len(a), len(b)))
        return 0.0

    monkeypatch.setattr(judges_lib, "train", lambda bench, run: None)
    monkeypatch.setattr(judges_lib, "judge", judge)
    for name in ("frechet_distance", "kernel_distance"):
        monkeypatch.setattr(generation, name, distance)
    monkeypatch.setattr(evaluation, "forgotten_classes", lambda bench: forget)
    part = lambda n: {"inputs": np.zeros((n, 2, 2, 1)), "targets": np.zeros(n, int)}
    problem = types.SimpleNamespace(
        train=part(number),
        held_out=part(test + 5),
        retain=np.arange(10, number),
        test=np.arange(5, test + 5),
        dataset=types.SimpleNamespace(num_classes=CLASSES),
    )
    context = evaluation.prepare(None, types.SimpleNamespace(config=config, problem=problem))
    own = {**arrays(0), "images": np.zeros((NUMBER, 2, 2, 1), np.uint8)}
    rows = [{"method": m, **evaluation.numbers(context, own, 0)} for m in ("oracle", "ssd")]
    evaluation.against_oracles(context, rows, [own, own])
    assert set(sizes) == {(size, size)} and len(sizes) >= 2 * 2 * 4


@pytest.fixture(scope="module")
def run(tfds_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("painting") / "run"
    cli.execute(workdir, tfds_dir, config=CONFIG)
    return workdir, json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
def test_a_generator_goes_through_the_main_job(run, tfds_dir):
    workdir, results = run
    rows = {row["method"]: row for row in results["rows"]}
    assert list(rows) == ["original", "oracle", "retrain", "finetune", "gradient_ascent"]
    # What the oracle never saw it cannot draw; all that it saw it can.
    assert (
        rows["original"]["unlearning_accuracy"] < 0.1 < 0.5 < rows["oracle"]["unlearning_accuracy"]
    )
    assert min(row["retained_accuracy"] for row in rows.values()) > 0.9
    assert rows["oracle"]["average_gap"] == 0 < rows["retrain"]["average_gap"] < 0.2
    assert rows["retrain"]["fd_oracle"] < rows["original"]["fd_oracle"]
    assert rows["original"]["relearn_steps"] == 0 < rows["oracle"]["relearn_steps"]
    page = (workdir / "report.html").read_text()
    for text in ("UA %", "FD real-real", "no FID", "the same noise in every row"):
        assert text in page
    assert {"samples", "losses"} <= {path.stem for path in (workdir / "plots").iterdir()}
    assert {"judge0", "judge1"} <= {path.stem for path in (workdir / "checkpoints").iterdir()}
    with np.load(workdir / "rows" / "oracle_seed0.npz") as one:
        with np.load(workdir / "rows" / "retrain_seed0.npz") as other:
            images = [x["images"].reshape(20, 4, 8, 8) for x in (one, other)]
    assert images[0].dtype == np.uint8
    # Two models that learned a class draw it from the same noise.
    own, other = (x[:, [0, 1, 3]].astype(float) for x in images)
    assert np.abs(own - other).mean() < 0.5 * np.abs(own - np.roll(other, 1, axis=0)).mean()
    (workdir / "results.json").unlink()
    cli.execute(workdir, tfds_dir, config=CONFIG)  # all of it is there
    assert json.loads((workdir / "results.json").read_text())["rows"] == results["rows"]


def test_judges_that_are_not_sure_stop_the_run_before_anything_is_trained(tfds_dir, tmp_path):
    blind = ("num_epochs=1", "learning_rate=1e-9")
    flags = [f"--config.evaluate.judges.train.{field}" for field in blind]
    with pytest.raises(ValueError, match="right on 90 % of real images, are on .* is erased"):
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=CONFIG)
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"judge0", "judge1"}


@pytest.mark.slow
def test_originals_that_draw_nothing_stop_it_before_anything_is_erased(tfds_dir, tmp_path):
    command = cli.command(tmp_path / "run", "--config.train.learning_rate=1e-9", config=CONFIG)
    process = cli.run(command, tfds_dir)
    (line,) = cli.error_lines(process)
    assert "judges must be right on 80 % of the originals' samples, are on" in line
    assert process.returncode == 1
    assert [path.stem for path in (tmp_path / "run" / "rows").glob("*.json")] == ["original_seed0"]
    lines = [line for line in process.stdout_text.splitlines() if "judges are right" in line]
    assert [line.partition(" of ")[2] for line in lines] == [
        "real images",
        "the originals' samples",
    ]


def test_data_that_is_changed_is_refused_before_any_judge_is_trained(tfds_dir, tmp_path):
    flags = ("--config.forget=confusion:0+1:20:0.5",)
    with pytest.raises(ValueError, match="forget must leave the data as it is"):
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=CONFIG)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize(("forget", "gone"), [("class:2", (2,)), ("part:2:0.5", ())])
def test_a_class_is_forgotten_where_nothing_of_it_is_left(forget, gone, tfds_dir):
    from experiments.common import build

    config = cli.make_config(CONFIG, f"--config.forget={forget}")
    bench = types.SimpleNamespace(problem=build.problem(config, tfds_dir))
    assert evaluation.forgotten_classes(bench) == gone


def test_gap_leaves_out_what_the_oracle_has_not():
    row, ideal = ({name: 0.1 * k * i for i, name in enumerate(evaluation.GAP)} for k in (1, 3))
    expected = np.mean([0.2 * i for i in range(4)])
    assert evaluation.EVALUATION.gap.distance(row, ideal) == pytest.approx(expected)
    nothing = {**ideal, "unlearning_accuracy": np.nan}
    found = evaluation.EVALUATION.gap.distance({**row, "unlearning_accuracy": np.nan}, nothing)
    assert found == pytest.approx(np.mean([0.2 * i for i in range(1, 4)]))
    broken = {**row, "recall": np.nan}
    assert np.isnan(evaluation.EVALUATION.gap.distance(broken, ideal))
