"""Bad input: one line, a non-zero exit, nothing lost."""

import pytest

from configs import unlearn as config_lib
from tests.experiments import cli

CONFIG = "configs/unlearn.py:"


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (CONFIG + "digitts", (), "a tfds name, got 'digitts'; nearest: digits"),
        (CONFIG + "digits,model=mpl", (), "model must be one of"),
        (CONFIG + "digits,method=sdd", (), "method must be one of"),
        (CONFIG + "digits,method=sdd", (), "got 'sdd'; did you mean 'ssd'?"),
        (CONFIG + "digits,forget=class:11", (), "class must be one of [0, 1, 2,"),
        (CONFIG + "digits,forget=indices:", (), "the forget set is empty"),
        (CONFIG + "digits,forget=class:0+1+2+3+4+5+6+7+8+9", (), "is the whole training set"),
        (CONFIG + "digits", ("--config.unlearn.ssd.alpha=-1",), "alpha must be > 0, got -1"),
        (
            CONFIG + "digits",
            ("--config.train.batch_size=5000",),
            "train.batch_size must be between 1",
        ),
        (
            CONFIG + "digits",
            ("--config.unlearn.alhpa=3",),
            "no field 'alhpa' Did you mean \"alpha\"",
        ),
        (CONFIG + "digits,modle=mlp", (), "did you mean 'model'?"),
        (
            "configs/unlern.py",
            (),
            "No such file or directory: 'configs/unlern.py'; did you mean 'configs/unlearn.py'?",
        ),
        ("own.py", (), "'own.py'; there are configs/continual.py, configs/corrective.py,"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("configs") else "",
)
def test_one_clear_line_before_anything_is_computed(config, flags, message, tmp_path, tfds_dir):
    process = cli.run(cli.command(tmp_path / "run", *flags, config=config), tfds_dir)
    assert process.returncode != 0
    lines = cli.error_lines(process)
    assert len(lines) == 1, process.stderr_text
    assert message in lines[0]
    assert "Traceback" not in process.stderr_text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_foreign_workdir_is_left_alone(tmp_path, tfds_dir):
    (tmp_path / "thesis.tex").write_text("years of work")
    process = cli.run(cli.command(tmp_path), tfds_dir)
    assert process.returncode != 0
    assert "is not empty and holds no run of unlearnjax" in cli.error_lines(process)[0]
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_diverging_training_stops_and_names_the_epoch_and_the_last_checkpoint(tmp_path, tfds_dir):
    flags = (
        *cli.SMALL,
        "--config.train.optimizer=sgd",
        "--config.train.learning_rate=1e20",
        "--config.train.schedule=constant",
    )
    process = cli.run(cli.command(tmp_path / "run", *flags), tfds_dir)
    assert process.returncode != 0
    (line,) = cli.error_lines(process)
    assert "training original_seed0" in line and "non-finite in epoch" in line
    assert "lower train.learning_rate" in line


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


def test_damaged_checkpoint_is_named(tmp_path, tfds_dir):
    workdir = tmp_path / "run"
    assert cli.run(cli.command(workdir, *cli.SMALL), tfds_dir).returncode == 0
    for path in (workdir / "checkpoints" / "original_seed0").rglob("*"):
        if path.is_file() and path.parent.name != "original_seed0":
            path.write_bytes(b"\x00garbage")
    process = cli.run(cli.command(workdir, *cli.SMALL), tfds_dir)
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
        assert config_lib.get_config().methods == tuple(config_lib.METHODS)

    @pytest.mark.parametrize(
        ("arg", "message"),
        [
            ("digits,methd=ssd", "got 'methd'; did you mean 'method'"),
            ("digits,method=ssd+xyz", "method must be one of .* got 'xyz'"),
            ("digits,seeds=0", "seeds must be a positive integer, got '0'"),
            ("digits,seeds=two", "seeds must be a positive integer"),
        ],
    )
    def test_bad_strings(self, arg, message):
        with pytest.raises(ValueError, match=message):
            config_lib.get_config(arg)
