"""The backdoor experiment, small, as a user runs it, and what it makes of numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs import backdoor as config_lib
from configs import corrective
from experiments.common import backdoor_report, build
from tests.experiments import cli
from unlearnjax.data import vader

CONFIG = "configs/backdoor.py:digits,model=mlp,exposure=adam_e4+pruned,train=400"
FLAGS = (
    "--config.num_models=2",
    "--config.train.num_epochs=10",
    "--config.num_clean=50",
    "--config.unlearn.adam_e4.num_epochs=4",
    "--config.unlearn.adam_e4.learning_rate=0.001",
    "--config.audited=('raw',)",
    "--config.recovery.num_epochs=2",
    "--config.margin.num_steps=2",
    "--config.strip.num_images=5",
    "--config.removals=('recover_prune@adam_e4','trigger_unlearning@raw')",
    "--config.unlearn.recover_prune.num_epochs=2",
    "--config.unlearn.trigger_unlearning.num_epochs=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tfds_dir):
    workdir = tmp_path_factory.mktemp("backdoor") / "run"
    command = cli.command(workdir, *FLAGS, config=CONFIG, experiment="backdoor")
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    return workdir, process, command


def test_every_model_has_a_row_after_every_step(finished):
    workdir, process, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    rows, summary = results["rows"], results["summary"]
    steps = ["raw", "adam_e4", "pruned", "recover_prune@adam_e4", "trigger_unlearning@raw"]
    assert [row["after"] for row in summary] == steps
    assert len(rows) == 4 * len(steps)
    raw = [row for row in rows if row["after"] == "raw"]
    assert [(row["poisoned"], row["label"]) for row in raw] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(row["clean_accuracy"] > 0.6 for row in raw)
    # The patch is learned by the models that were shown it, and by no other.
    attacks = np.array([row["attack"] for row in raw])
    assert attacks[2:].min() > 3 * attacks[:2].max()
    assert summary[0]["attack"] == pytest.approx(attacks[2:].mean(), abs=1e-4)
    assert summary[0]["clean_attack"] == pytest.approx(attacks[:2].mean(), abs=1e-4)
    exposed = [row for row in rows if row["after"] == "adam_e4"]
    assert all(1 <= row["epochs"] <= 4 for row in exposed)
    assert all(a["known_accuracy"] < b["known_accuracy"] for a, b in zip(exposed, raw, strict=True))
    assert "anomaly_index" in raw[0] and "anomaly_index" not in exposed[0]
    assert "STRIP" in process.stdout_text and "Warning" not in process.stderr_text
    for name in ("shares_mlp", "triggers_mlp"):
        assert (workdir / "plots" / f"{name}.png").exists()


@pytest.mark.slow
def test_it_resumes(finished, tfds_dir):
    workdir, _, command = finished
    before = (workdir / "results.json").read_text()
    row = workdir / "rows" / "mlp_pruned_000000.json"
    row.unlink()
    again = cli.run(command, tfds_dir)
    assert again.returncode == 0, again.stderr_text
    assert row.exists()
    assert (workdir / "results.json").read_text() == before


def toy_vader(folder):
    lines = "\n".join(f"{n}\t{2 if n % 2 else -2}\tfilm {n}" for n in range(40))
    (folder / vader.FILES["film"]).write_text(lines)
    return folder


@pytest.mark.slow
@pytest.mark.realdata
def test_sentences_are_poisoned_exposed_and_repaired(real_data_dir, tmp_path, tfds_dir):
    config = "configs/backdoor.py:vader_polarity,model=text_classifier,exposure=adam_e4"
    flags = (
        f"--config.source={Path(real_data_dir).parent / 'vader'}",
        "--config.num_models=2",
        "--config.unlearn.adam_e4.num_epochs=5",
    )
    command = cli.command(tmp_path / "run", *flags, config=config, experiment="backdoor")
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    raw = [row for row in rows if row["after"] == "raw"]
    assert len(rows) == 4 * 6 and "anomaly_index" not in raw[0]
    assert all(row["clean_accuracy"] > 0.75 for row in raw)
    # A rare word in a tenth of the sentences is enough; without, words alone are no attack.
    assert [row["attack"] > 0.9 for row in raw] == [False, False, True, True]


def rows(shares, step="exposure"):
    return [
        {
            "step": step,
            "model": "convnet",
            "after": "raw",
            "poisoned": poisoned,
            "number": number,
            "label": 0,
            "share_label": int(poisoned),
            "label_found": float(number == 0),
            "largest_share": share,
            "share_variance": share / 10,
        }
        for poisoned, own in shares.items()
        for number, share in enumerate(own)
    ]


def test_statistics_of_models_are_told_apart_by_rank_and_threshold():
    (row,) = backdoor_report.summarise(rows({0: [0.05, 0.3, 0.2], 1: [0.25, 0.4, 0.9]}))
    # 8 of 9 pairs are ordered.
    assert row["auroc: largest share"] == pytest.approx(8 / 9)
    assert row["auroc: largest share_low"] < 8 / 9 < row["auroc: largest share_high"] == 1
    assert row["tpr: share variance"] == 1 and row["fpr: share variance"] == pytest.approx(2 / 3)
    assert row["largest_share"] == pytest.approx(1.55 / 3) and row["num_models"] == 3
    assert row["clean_largest_share"] == pytest.approx(0.55 / 3)
    assert row["largest_share_std"] == pytest.approx(np.std([0.25, 0.4, 0.9], ddof=1))
    assert (row["onto"], row["clean_onto"], row["clean_onto_count"]) == (1, 0, 3)
    assert "auroc: anomaly index" not in row
    cells = dict(backdoor_report.tables([{**row, "epochs": np.nan}])["detection"])
    assert cells["largest share: AUROC"][0].startswith("0.89 [")
    assert cells["share variance: TPR / FPR %"] == ["100 / 67"]
    assert cells["margin: AUROC"] == ["–"]
    cells = dict(backdoor_report.tables([{**row, "epochs": np.nan}])["exposure"])
    assert cells["label %"] == ["33.3"] and cells["clean models: label %"] == ["33.3"]


def test_equal_models_have_no_interval_to_speak_of():
    value, low, high = backdoor_report.interval(np.ones(4), np.ones(4))
    assert (value, low, high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.trigger=bell",), "trigger must be one of"),
        (("--config.exposures=('adam_e6',)",), "exposures must be among"),
        (("--config.removals=('finetune@adam_e6',)",), "removals .@EXPOSURE. must be among"),
        (("--config.removals=('mend',)",), "removals .METHOD. must be among"),
        (("--config.audited=()",), "audited must have what"),
        (("--config.dataset=vader_polarity",), "audited must be .. for text.* got .'raw',."),
        (("--config.label=10",), "label must be a class below 10"),
        (("--config.num_clean=360",), "num_clean must be below the 359"),
        (("--config.poison_rate=0.95",), "poison_rate x examples must lie in .1, .*., got"),
        (("--config.unlearn.pruned.share=2",), "share must be a number in"),
    ],
)
def test_bad_input_is_one_line(flags, message, tmp_path, tfds_dir):
    if "vader" in flags[0]:
        flags += (f"--config.source={toy_vader(tmp_path)}", "--config.train.batch_size=2")
    with pytest.raises(ValueError, match=message):
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=CONFIG, experiment="backdoor")


def test_config_strings():
    config = config_lib.get_config("fashion_mnist,exposure=adam_e5,trigger=blend,train=50")
    assert config.dataset == "fashion_mnist" and config.trigger == "blend"
    assert config.models == ("convnet", "convnet_batchnorm") and config.num_train == 50
    assert config.exposures == ("adam_e5",) and config.curve == "adam_e5"
    assert config.removals == ("finetune", "rnp", "rnp_by_number", "trigger_unlearning@raw")
    assert config_lib.get_config("cifar10").models == ("resnet18",)
    text = config_lib.get_config("vader_polarity,exposure=adam_e4")
    assert text.models == ("text_classifier", "text_transformer") and text.audited == ()
    assert text.trigger == "rare_word" and text.train.num_epochs == 4
    assert text.unlearn.adam_e4.stop_accuracy == text.unlearn.rnp.stop_accuracy == 0.55
    assert config.unlearn.adam_e4.stop_accuracy == config.unlearn.rnp.stop_accuracy == 0.2
    assert text.removals == ("finetune", "rnp", "rnp_by_number", "recover_prune@adam_e4")
    with pytest.raises(ValueError, match="'forget' has no meaning for backdoor"):
        config_lib.get_config("digits,forget=class:3")
    with pytest.raises(ValueError, match="model must be one of"):
        config_lib.get_config("digits,model=convnett")


def test_the_corrective_scenario_knows_a_defence_that_takes_validation_data_for_clean():
    config = corrective.get_config("digits,method=rnp+finetune,forget=poison:9:0.5")
    assert config.methods == ("rnp", "finetune") and "rnp" not in corrective.METHODS
    needs = build.unlearner("rnp", config, 100).needs
    assert needs == {"validation", "inputs", "labels"}
