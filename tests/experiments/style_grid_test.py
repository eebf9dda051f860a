"""The whole run of a model that reads captions, at a size that draws nothing yet."""

import json

import numpy as np
import pytest

from configs import style_grid
from experiments.common.evaluations import style_grid_seen as seen
from tests.experiments import cli
from unlearnjax.data.concept_requests import Concept

CONFIG = "configs/style_grid.py:digits,train=600,test=300"
TOY = [
    f"--config.{field}"
    for field in (
        "base.train.num_epochs=1",
        "base.train.batch_size=120",
        "base.image_encoder.options.width=8",
        "base.image_encoder.options.depth=1",
        "train.num_epochs=2",
        "train.batch_size=60",
        "train.checkpoint_every=1",
        "model.options.width=8",
        "model.options.depth=1",
        "model.text_encoder.width=8",
        "model.text_encoder.depth=1",
        "evaluate.sampling.num_steps=2",
        "evaluate.sampling.num_draws=2",
        "evaluate.answers.per_cell=2",
        "evaluate.relearn.max_steps=2",
        "evaluate.judges.train.num_epochs=2",
        "evaluate.judges.model.options.channels=(4,4)",
        "evaluate.judges.model.options.hidden=8",
        "evaluate.judges.least_style=0.0",
        "evaluate.judges.least_object=0.0",
    )
]
SHORT = [
    f"--config.unlearn.{field}"
    for field in (
        "num_steps=2",
        "num_epochs=1",
        "num_images=20",
        "batch_size=15",
        "sample_steps=3",
        "bank=3",
    )
]


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
def test_every_method_goes_through_the_main_job_and_on_from_where_it_stopped(tfds_dir, tmp_path):
    own = tmp_path / "run"
    config = f"{CONFIG},forget=style:neon,method=all"
    command = cli.command(own, *TOY, *SHORT, config=config)
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    rows = {row["method"]: row for row in results(own)["rows"]}
    assert list(rows) == ["original", "oracle", *style_grid.METHODS]
    for name, row in rows.items():
        columns = ("unlearning_accuracy", "cross_domain_target", "fd", "clip_pair", "forget_loss")
        assert np.isfinite([row[column] for column in columns]).all(), name
        # Whoever has the arrays has the numbers.
        with np.load(own / "rows" / f"{name}_seed0.npz") as arrays:
            kept = dict(arrays)
        assert kept["images"].dtype == kept["seen_style"].dtype == np.uint8
        again = seen.seen_in(kept, [[Concept(style=5)]])
        for column, value in again.items():
            assert row[column] is None or row[column] == pytest.approx(value), (name, column)
    # An edit of keys and values is stored as these; one of a text encoder leaves the denoiser.
    total = rows["retrain"]["stored_bytes"]
    assert 0 < rows["uce"]["stored_bytes"] < rows["esd_x"]["stored_bytes"] < total
    assert rows["original"]["stored_bytes"] == 0
    for figure in ("answers", "style_seen", "object_seen", "frontier"):
        assert (own / "plots" / f"{figure}.png").exists()
    for method in ("esd_x", "oracle"):
        (own / "rows" / f"{method}_seed0.json").unlink()
    again = cli.run(command, tfds_dir)
    assert again.returncode == 0, again.stderr_text
    for old, new in zip(rows.values(), results(own)["rows"], strict=True):
        same = {name: value for name, value in old.items() if "second" not in name}
        assert {name: new[name] for name in same} == same

    # Requests one after another take what was trained, and no oracle is needed.
    other = tmp_path / "sequence"
    config = f"{CONFIG},forget=sequence:neon+three,method=uce+finetune"
    flags = [flag for flag in SHORT if "epochs" in flag or "batch_size" in flag]
    flags += [f"--originals={own}", "--config.num_oracles=0"]
    taken = cli.run(cli.command(other, *TOY, *flags, config=config), tfds_dir)
    assert taken.returncode == 0, taken.stderr_text
    found = {row["method"]: row for row in results(other)["rows"]}
    assert list(found) == ["original", "uce", "finetune"]
    assert found["uce"]["rebound"] is not None and found["original"]["rebound"] is None
    assert found["uce"]["average_gap"] is None and (other / "plots" / "sequence.png").exists()
    for name in ("base", "style_judge0", "object_judge1"):
        assert (other / "checkpoints" / name).is_dir()
    assert found["original"]["test_loss"] != rows["original"]["test_loss"]  # of other examples


def test_a_name_that_is_none_ends_in_one_line_that_has_the_nearest(tfds_dir, tmp_path):
    with pytest.raises(ValueError, match="forget='style:neno'.* did you mean 'neon'") as error:
        cli.execute(tmp_path / "run", tfds_dir, config=f"{CONFIG},forget=style:neno")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()
