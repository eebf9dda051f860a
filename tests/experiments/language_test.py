"""The whole run of a language model, at a size that knows nothing yet."""

import json

import numpy as np
import pytest

from configs import language, language_sweep
from experiments import sweep
from experiments.common import build
from tests.experiments import cli

TOY = [
    f"--config.{field}"
    for field in (
        "task_options.num_authors=5",
        "task_options.num_questions=3",
        "task_options.num_held_out=4",
        "task_options.vocab_size=300",
        "model.options.width=16",
        "model.options.depth=2",
        "model.options.mlp_width=16",
        "train.num_epochs=2",
        "train.batch_size=4",
        "evaluate.relearn.max_steps=2",
        "evaluate.least_known=0.0",
        "unlearn.num_steps=2",
        "unlearn.num_epochs=1",
        "unlearn.batch_size=3",
    )
]


@pytest.mark.parametrize(
    ("arg", "dataset", "forget", "seeds"),
    [
        ("", "authors", "identity:0+1", 3),
        ("quick", "authors", "identity:0+1", 1),
        ("authors,forget=random:0.1,seeds=2", "authors", "random:0.1", 2),
        ("tofu_small", "tofu_small", "field:forget01:true", 3),
        ("tofu", "tofu", "field:forget10:true", 3),
        ("dataset=tofu,forget=forget05", "tofu", "field:forget05:true", 3),
        ("seeds=2,method=npo", "authors", "identity:0+1", 2),
    ],
)
def test_config_strings_say_who_is_forgotten(arg, dataset, forget, seeds):
    config = language.get_config(arg)
    assert (config.dataset, config.forget, config.num_seeds) == (dataset, forget, seeds)
    assert config.task == "language" and config.num_oracles == seeds + 1
    assert config.evaluate.min_k == 0.4  # PrivLeak as MUSE has it
    assert ("base" in config) == (dataset == "tofu_small")
    assert config.model.name == "decoder" and not config.train.augment


def test_curves_are_methods_stopped_early():
    config = language.get_config("authors,method=ssd,curves=npo")
    names = tuple(f"npo_{steps}_steps" for steps in language.STEPS)
    assert config.methods == ("ssd", *names) and config.curves.to_dict() == {"npo": names}
    for steps, name in zip(language.STEPS, names, strict=True):
        assert config.unlearn[name].constructor == "npo" and config.unlearn[name].num_steps == steps
        assert build.unlearner(name, config, 100).needs
    assert language.get_config("").curves.to_dict() == {}


def test_a_sweep_tries_values_that_its_methods_have_on_validation_data():
    config = language_sweep.get_config("authors,method=npo+ssd,forget=identity:0/random:0.1")
    assert config.scenarios == ("identity:0", "random:0.1") and config.methods == ("npo", "ssd")
    assert config.validation_fraction == 0.5 and config.num_seeds == 1
    sweep.validate(language_sweep.get_config())
    assert language_sweep.get_config().scenarios == ("identity:0+1",)
    tofu = language_sweep.get_config("tofu_small,forget=forget01")
    assert tofu.scenarios == ("field:forget01:true",)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("digits", "data set must be one of .*'digits'"),
        ("authors,train=100", "'train' has no meaning for language"),
        ("authors,superclasses=0+1", "'superclasses' has no meaning for language"),
        ("authors,method=npoo", "did you mean 'npo'"),
        ("authors,curves=ssd", "curves must be of methods with num_steps, .*got 'ssd'"),
    ],
)
def test_other_config_strings_are_refused(arg, message):
    with pytest.raises(ValueError, match=message):
        language.get_config(arg)


@pytest.mark.slow
def test_every_method_goes_through_the_main_job_and_on_from_where_it_stopped(tmp_path):
    config = "configs/language.py:authors,method=all,seeds=1,curves=npo"
    process = cli.run(cli.command(tmp_path / "run", *TOY, config=config), tmp_path)
    assert process.returncode == 0, process.stderr_text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    stopped = [f"npo_{steps}_steps" for steps in language.STEPS]
    methods = [row["method"] for row in results["rows"]]
    assert methods == ["original", "oracle", "oracle", *language.METHODS, *stopped]
    for row in results["rows"]:
        seen = [row[name] for name in ("forget_probability", "forget_truth_ratio", "klom")]
        assert np.isfinite([*seen[:2], row["forget_said_loss"]]).all(), row["method"]
    # All of them take two steps here, the same ones.
    ways = {row["forget_loss"] for row in results["rows"] if row["method"] in ("npo", *stopped)}
    assert len(ways) == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What is answered, first seed" in page and "true answer" in page
    assert (tmp_path / "run" / "plots" / "steps.png").exists()
    for name in ("oracle_seed1", "npo_seed0"):
        (tmp_path / "run" / "rows" / f"{name}.json").unlink()
    again = cli.run(cli.command(tmp_path / "run", *TOY, config=config), tmp_path)
    assert again.returncode == 0, again.stderr_text
    repeated = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    for old, new in zip(results["rows"], repeated, strict=True):
        same = {name: value for name, value in old.items() if "second" not in name}
        assert {name: new[name] for name in same} == same
