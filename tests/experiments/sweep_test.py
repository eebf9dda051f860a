import json

import pytest

from configs import sweep as config_lib
from configs import unlearn
from experiments import sweep
from tests.experiments import cli


def test_candidates_start_with_the_given_values_and_cover_the_grid():
    config = config_lib.get_config("digits,model=mlp,method=ssd")
    config.search, config.max_trials = "grid", 100
    found = sweep.candidates(config, "ssd")
    assert found[0] == {
        "alpha": config.unlearn.ssd.alpha,
        "dampening": config.unlearn.ssd.dampening,
    }
    grid = {(a, d) for a in config.spaces.ssd.alpha for d in config.spaces.ssd.dampening}
    assert {(v["alpha"], v["dampening"]) for v in found} >= grid
    assert len({tuple(v.values()) for v in found}) == len(found)
    config.search, config.max_trials = "random", 5
    drawn = sweep.candidates(config, "ssd")
    assert drawn == sweep.candidates(config, "ssd") and len(drawn) == 5
    assert drawn[0] == found[0] and all(v in found for v in drawn)


def test_every_space_has_fields_of_its_method():
    config = config_lib.get_config()
    sweep.validate(config)
    assert set(config_lib.SPACES) == set(unlearn.METHODS) - {"retrain"}
    # Reports must not use the seeds that values were found with.
    assert config.seed != unlearn.get_config().seed


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("search", "bayes", r"search must be one of \('grid', 'random'\), got 'bayes'"),
        ("budget_unit", "joules", "budget_unit must be one of"),
        ("methods", ("retrain",), "methods must be among"),
    ],
)
def test_bad_sweeps_are_named(field, value, message):
    config = config_lib.get_config("digits,model=mlp,method=ssd")
    config[field] = value
    with pytest.raises(ValueError, match=message):
        sweep.validate(config)


def test_the_smallest_gap_is_chosen_among_programs_that_are_fast_enough():
    def trial(gap, ratio, **values):
        return {"gap": gap, "ratio": ratio, "values": values}

    slow = trial(0.1, 1.5, alpha=5.0, num_epochs=9)
    # One program, of which one trial met a busy machine.
    busy, calm = trial(0.2, 1.2, alpha=5.0, num_epochs=1), trial(0.3, 0.9, alpha=1.0, num_epochs=1)
    assert sweep.choose([calm, slow, busy], 1.0) is busy
    assert sweep.choose([calm, slow, busy], 1.5) is slow
    assert sweep.choose([slow, trial(0.1, 1.4, num_epochs=8)], 1.0)["ratio"] == 1.4


def test_unknown_fields_of_a_space_are_named():
    config = config_lib.get_config("digits,model=mlp,method=ssd")
    config.spaces.ssd.aplha = (1.0, 2.0)
    with pytest.raises(ValueError, match=r"spaces.ssd has fields unknown to it: \['aplha'\]"):
        sweep.validate(config)


def test_committed_values_are_fields_of_the_methods():
    assert unlearn.tuned("digits", "convnet") and not unlearn.tuned("digits", "resnet18")
    for path in unlearn.TUNED.glob("*.json"):
        for kind, methods in json.loads(path.read_text()).items():
            assert kind in ("class", "part", "random")
            for method, fields in methods.items():
                assert set(fields) <= set(unlearn.METHODS[method]), (path.name, kind, method)


@pytest.mark.slow
def test_it_finds_better_values_than_bad_ones_and_resumes(tmp_path, tfds_dir):
    command = cli.command(
        tmp_path / "run",
        "--config.unlearn.ssd.alpha=1000.0",  # selects nothing
        "--config.max_trials=4",
        config="configs/sweep.py:digits,model=mlp,method=ssd,forget=class:3,seeds=1",
        experiment="sweep",
    )
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (row,) = results["rows"]
    assert row["default_gap"] > 0.3 > 0.1 > row["gap"]
    tuned = json.loads((tmp_path / "run" / "tuned.json").read_text())
    assert tuned["class"]["ssd"] == row["values"] and row["values"]["alpha"] < 1000
    trials = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "rows").glob("*.json")}
    assert len(trials) == 4
    assert cli.run(command, tfds_dir).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in trials} == trials
