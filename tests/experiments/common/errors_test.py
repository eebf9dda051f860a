"""Bad input: one line, a non-zero exit, nothing lost."""

import importlib
import sys
from importlib import util

import jax
import pytest
from absl import flags as absl_flags
from ml_collections import config_flags

import experiments
from configs import unlearn as config_lib
from experiments.common import errors, runner, workdir
from tests import disks
from tests.experiments import cli

CONFIG = "configs/unlearn.py:"


REFUSED = [
    ("unlearn", "digitts", (), "a tfds name, got 'digitts'; nearest: digits"),
    ("unlearn", "digits,forget=class:11", (), "class must be one of [0, 1, 2,"),
    ("unlearn", "digits,forget=indices:", (), "the forget set is empty"),
    ("unlearn", "digits,forget=class:0+1+2+3+4+5+6+7+8+9", (), "is the whole training set"),
    (
        "unlearn",
        "digits",
        ("unlearn.ssd.alpha=-1",),
        "config.unlearn.ssd.alpha must be a number in",
    ),
    ("unlearn", "digits", ("unlearn.ssd.alpha=0",), "alpha must be > 0, got 0"),
    ("unlearn", "digits", ("train.batch_size=5000",), "train.batch_size must be between 1"),
    ("unlearn", "digits", ("seed=99999999999999999999",), "config.seed must be an integer in [0,"),
    ("unlearn", "digits", ("seed=4294967296",), "config.seed must be an integer in [0,"),
    ("unlearn", "digits", ("evaluate.batch_size=0",), "config.evaluate.batch_size must be an"),
    (
        "unlearn",
        "digits",
        ("evaluate.relearn.max_steps=0",),
        "relearn.max_steps must be an integer",
    ),
    ("unlearn", "digits", ("evaluate.relearn.num_examples=0",), "relearn.num_examples must be an"),
    ("unlearn", "digits", ("train.learning_rate=0",), "train.learning_rate must be a number in (0"),
    ("unlearn", "digits", ("columns=('nomu',)",), "['nomu']; did you mean 'nomus'?"),
    ("unlearn", "digits", ("columns=('test_error',)",), "columns must be among"),
    ("leaderboard", "digits", ("columns=('nomu',)",), "['nomu']; did you mean 'nomus'?"),
    ("leaderboard", "digits", ("scenarios=()",), "scenarios must be at least one, got none"),
    ("leaderboard", "digits,forget=class:3/class:33", (), "class:33"),
    ("continual", "digits,train=3", (), "stream class_incremental takes"),
    ("continual", "digits,train=100,stream=interleaved", (), "'samples after class 0' is about no"),
    ("continual", "digits,test=3", (), "test data must have examples of every class, got none of"),
    ("continual", "digits,superclasses=0+1+2+3+4+5+6+7+8+9", (), "three classes or more, got 1"),
    ("continual", "digits", ("head.batch_size=0",), "config.head.batch_size must be an integer"),
    ("continual", "digits", ("head.num_epochs=0",), "config.head.num_epochs must be an integer"),
    ("continual", "digits", ("gamma=0.0",), "config.gamma must be a number in (0, inf)"),
    ("continual", "digits", ("methods=()",), "methods and streams must be at least one each"),
    ("continual", "digits", ("task=regression",), "task must be one of"),
    ("continual", "digits", ("backbone=resnet",), "backbone must be one of"),
    (
        "continual",
        "digits",
        ("backbone=trained", "train.batch_size=1000"),
        "config.train.batch_size must be between 1",
    ),
    ("worst_case", "digits", ("search.num_epochs=0",), "config.search.num_epochs must be an"),
    ("worst_case", "digits", ("train.batch_size=1000",), "train.batch_size must be between 1 and"),
    ("worst_case", "digits", ("unlearn.ssd.alpha=0",), "alpha must be > 0"),
    ("worst_case", "digits", ("lower={'l1_sparse': {'gamma': -1.0}}",), "gamma must be a number"),
    ("datamodel", "digits,forget=component:1:9999", (), "takes 9999 of 1438 training examples"),
    ("datamodel", "digits,forget=component:1:9/9999", (), "takes 10008 of 1438"),
    ("datamodel", "digits,train=200,forget=random:190", (), "between 1 and the number of examples"),
    ("datamodel", "digits", ("unlearn.ssd.batch_size=0",), "config.unlearn.ssd.batch_size must"),
    ("datamodel", "digits", ("spaces.ssd.dampening=(-1.0,)",), "config.spaces.ssd.dampening must"),
    ("datamodel", "digits", ("spaces.ssd.alpha=(0.0,)",), "alpha must be > 0, got 0"),
    ("datamodel", "digits", ("forget_sets=()",), "forget_sets must be given for the methods"),
    ("sweep", "digits,forget=class:3/class:33", (), "class:33"),
    ("sweep", "digits", ("spaces.ssd.alpha=(0.0,)",), "alpha must be > 0, got 0"),
]


@pytest.mark.parametrize(
    ("family", "arg", "changes", "message"), REFUSED, ids=[f"{r[0]}-{r[1]}-{r[2]}" for r in REFUSED]
)
def test_one_clear_line_before_anything_is_computed(
    family, arg, changes, message, tmp_path, tfds_dir, monkeypatch
):
    never = lambda *_, **__: pytest.fail("something is computed")
    for step in ("start", "row", "advance"):
        monkeypatch.setattr(runner.Run, step, never)
    experiment = "unlearn" if family == "leaderboard" else family
    flags = [f"--config.{change}" for change in changes]
    with pytest.raises(ValueError) as caught:
        config = f"configs/{family}.py:{arg}"
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=config, experiment=experiment)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    # The corrected command may have the directory.
    assert [p.name for p in tmp_path.glob("run/*")] in ([], [workdir.LOCK])


def parse_error(*argv):
    """What a user reads of flags that cannot be read."""
    values = absl_flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    with pytest.raises(Exception) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["experiments.unlearn", *argv])  # overrides are looked for there
        patch.delitem(sys.modules, "config_config", raising=False)  # what the last one had
        values(["experiments.unlearn", *argv])
        getattr(holder.value, "name", None)
    with pytest.raises(SystemExit) as ended:
        errors.fail(errors.of_config(caught.value, list(argv)))
    return ended.value.code


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("digits,model=mpl",), "model must be one of"),
        (("digits,method=sdd",), "got 'sdd'; did you mean 'ssd'?"),
        (("digits,modle=mlp",), "did you mean 'model'?"),
        (("digits", "--config.unlearn.alhpa=3"), "no field 'alhpa' Did you mean \"alpha\""),
        (("digits", "--config.seed=1.5"), "seed"),
        (("digits", "--config.num_train=many"), "num_train"),
    ],
)
def test_config_strings_and_overrides_that_cannot_be_read(argv, message):
    assert message in parse_error(f"--config=configs/unlearn.py:{argv[0]}", *argv[1:])


@pytest.mark.parametrize(
    ("family", "arg"),
    [("worst_case", "digits,forget=class:99"), ("continual", "digits,seeds=3")]
    + [("datamodel", "digits,seeds=3"), ("continual", "digits,forget=class:3")],
)
def test_options_without_a_meaning_are_refused(family, arg):
    option = arg.split(",")[1].partition("=")[0]
    message = f"config option '{option}' has no meaning for {family}"
    assert message in parse_error(f"--config=configs/{family}.py:{arg}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Read me\n\nIt's *text*.", "cannot be read as Python: SyntaxError: "),
        ("def get_config(", "cannot be read as Python: SyntaxError: '(' was never closed"),
        ("import nothing_here", "cannot be read as Python: ModuleNotFoundError: No module named"),
        ("x = 1", "has no function get_config"),
        ('{"seed": 1}', "has no function get_config"),
        ("def get_config():\n    return 1 / 0", "ZeroDivisionError: division by zero"),
        (b"\xff\xfe\x00", "cannot be read as Python: "),
    ],
)
def test_files_that_are_no_configs(text, message, tmp_path):
    path = tmp_path / "own.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = parse_error(f"--config={path}")
    assert message in line
    assert str(path) in line or "ZeroDivisionError" in line


def test_config_files_that_are_not_there():
    for name, message in (
        ("configs/unlern.py", "'configs/unlern.py'; did you mean 'configs/unlearn.py'?"),
        ("own.py", "'own.py'; there are configs/backdoor.py, configs/continual.py,"),
        ("configs", "Is a directory: 'configs'"),
    ):
        assert message in parse_error(f"--config={name}")


def test_a_config_of_another_experiment_is_named(tmp_path, tfds_dir):
    for config, experiment, message in (
        ("configs/datamodel.py", "unlearn", "not one of experiments.unlearn: it has no field"),
        ("configs/unlearn.py", "worst_case", "experiments.worst_case: it has no field by, easiest"),
    ):
        with pytest.raises(ValueError, match=message):
            cli.execute(tmp_path / "run", tfds_dir, config=config, experiment=experiment)


def test_the_command_ends_with_one_line_and_status_1(tmp_path, tfds_dir):
    (tmp_path / "thesis.tex").write_text("years of work")
    process = cli.run(cli.command(tmp_path), tfds_dir)
    assert process.returncode == 1
    (line,) = cli.error_lines(process)
    assert "is not empty and holds no run of unlearnjax" in line
    assert "Traceback" not in process.stderr_text
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    process = cli.run(cli.command(tmp_path / "run", config="README.md"), tfds_dir)
    assert process.returncode == 1 and "Traceback" not in process.stderr_text
    (line,) = cli.error_lines(process)
    assert "config README.md cannot be read as Python: SyntaxError" in line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\nb"), "error: a b"),
        (OSError("x cannot be written"), f"error: x cannot be written; {errors.KEPT}"),
        (OSError(28, "No space left on device", "/x"), "No space left on device: '/x'; what is"),
        (
            MemoryError("Unable to allocate 8 GiB"),
            "error: out of memory: Unable to allocate 8 GiB;",
        ),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out\nof"), "error: out of memory: RESOU"),
    ],
)
def test_errors_are_one_line_and_status_1(error, line, capsys):
    absl_flags.FLAGS.mark_as_parsed()

    def call():
        raise error

    with pytest.raises(SystemExit) as caught:
        errors.in_one_line(call)
    assert line in caught.value.code and "\n" not in caught.value.code
    other = RuntimeError("ours")  # not the user's doing: with its traceback
    with pytest.raises(RuntimeError, match="ours"):
        errors.in_one_line(lambda: (_ for _ in ()).throw(other))


def test_packages_that_are_missing_are_named_before_anything_is_imported(monkeypatch):
    found = util.find_spec
    missing = lambda name: None if name == "matplotlib" else found(name)
    monkeypatch.setattr(util, "find_spec", missing)
    with pytest.raises(SystemExit) as caught:
        importlib.reload(experiments)
    assert caught.value.code == (
        "error: experiments need matplotlib, which is not installed: pip install matplotlib"
    )
    monkeypatch.undo()
    importlib.reload(experiments)


@pytest.mark.slow
def test_a_disk_that_fills_up_in_training_is_one_line_and_the_same_command_goes_on(
    tmp_path, tfds_dir
):
    flags = (*cli.SMALL, "--config.train.num_epochs=6", "--config.model.options.hidden=(256,)")
    config = CONFIG + "digits,model=mlp,seeds=1,method=ssd"
    with disks.small(tmp_path / "disk", 1_500_000) as grow:
        workdir = tmp_path / "disk" / "run"
        process = cli.run(cli.command(workdir, *flags, config=config), tfds_dir)
        assert process.returncode == 1, process.stderr_text
        (line,) = cli.error_lines(process)
        assert str(workdir) in line and "No space left" in line and errors.KEPT in line
        assert "Traceback" not in process.stderr_text
        grow(100_000_000)
        process = cli.run(cli.command(workdir, *flags, config=config), tfds_dir)
        assert process.returncode == 0, process.stderr_text
        assert (workdir / "results.json").exists()


@pytest.mark.slow
def test_diverging_training_stops_and_names_the_epoch_and_the_last_checkpoint(tmp_path, tfds_dir):
    flags = (
        *cli.SMALL,
        "--config.train.optimizer=sgd",
        "--config.train.learning_rate=1e20",
        "--config.train.schedule=constant",
    )
    config = CONFIG + "digits,model=mlp,seeds=1,method=ssd"
    process = cli.run(cli.command(tmp_path / "run", *flags, config=config), tfds_dir)
    assert process.returncode != 0
    (line,) = cli.error_lines(process)
    assert "training original_seed0" in line and "non-finite in epoch" in line
    assert "lower train.learning_rate" in line


@pytest.mark.slow
def test_diverging_unlearner_stops_and_keeps_what_was_computed(tmp_path, tfds_dir):
    flags = (
        *cli.SMALL,
        "--config.unlearn.finetune.optimizer=sgd",
        "--config.unlearn.finetune.learning_rate=1e30",
    )
    process = cli.run(
        cli.command(
            tmp_path / "run",
            *flags,
            config=CONFIG + "digits,model=mlp,seeds=1,method=ssd+finetune",
        ),
        tfds_dir,
    )
    assert process.returncode != 0
    (line,) = cli.error_lines(process)
    assert "finetune, seed 0" in line and "not finite" in line
    assert (tmp_path / "run" / "rows" / "ssd_seed0.json").exists()


@pytest.mark.slow
def test_damaged_checkpoint_is_named(tmp_path, tfds_dir):
    workdir = tmp_path / "run"
    command = cli.command(
        workdir, *cli.SMALL, config=CONFIG + "digits,model=mlp,seeds=1,method=ssd"
    )
    assert cli.run(command, tfds_dir).returncode == 0
    for path in (workdir / "checkpoints" / "original_seed0").rglob("*"):
        if path.is_file() and path.parent.name != "original_seed0":
            path.write_bytes(b"\x00garbage")
    process = cli.run(command, tfds_dir)
    assert process.returncode != 0
    (line,) = cli.error_lines(process)
    assert "original_seed0" in line and "damaged" in line


class TestConfig:
    def test_string_picks_data_model_methods_scenario_and_seeds(self):
        config = config_lib.get_config("fashion_mnist,method=ssd+finetune,forget=class:5,seeds=2")
        assert (config.dataset, config.forget, config.num_seeds) == ("fashion_mnist", "class:5", 2)
        assert config.methods == ("ssd", "finetune") and config.model.name == "convnet"
        assert config.unlearn.ssd.alpha == 3.0
        assert config_lib.get_config("cifar10").model.name == "resnet18"
        assert config_lib.get_config("mnist,model=mlp").model.name == "mlp"
        assert config_lib.get_config().methods == config_lib.CHOSEN

    @pytest.mark.parametrize(
        ("arg", "message"),
        [
            ("digits,methd=ssd", "got 'methd'; did you mean 'method'"),
            ("digits,method=ssd+xyz", "method must be all or some of .* got 'xyz'"),
            ("digits,seeds=0", "seeds must be a positive integer, got '0'"),
            ("digits,seeds=two", "seeds must be a positive integer"),
        ],
    )
    def test_bad_strings(self, arg, message):
        with pytest.raises(ValueError, match=message):
            config_lib.get_config(arg)
