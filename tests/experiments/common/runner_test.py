from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.common import runner


@pytest.mark.parametrize(
    ("forget", "folder"),
    [
        ("class:3", "class-3"),
        ("part:3:0.5", "part-3-0.5"),
        ("class:3+5", "class-3+5"),
        ("field:name:a-b", "field-name-a%2Db"),
        ("field:name:a/b", "field-name-a%2Fb"),
        ("field:name:a%2Fb", "field-name-a%252Fb"),
    ],
)
def test_forget_sets_have_folders_of_their_own(forget, folder):
    assert runner.folder(forget) == folder


def test_the_bar_says_what_is_being_compiled_in_any_thread(tmp_path):
    run = runner.Run("unlearn", ConfigDict({}), tmp_path / "run", None)
    run.start(1)
    shown = lambda: run.progress.tasks[0].fields["compiling"]
    together, seen = Barrier(3), []

    def compile_one(name):
        with run.compiling(name):
            together.wait(60)  # both are in
            together.wait(60)  # what is shown has been read

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(compile_one, name) for name in ("ssd", "scrub")]
        together.wait(60)
        seen.append(shown())
        together.wait(60)
        [one.result() for one in done]
    run.close()
    assert seen[0] in ("compiling ssd, scrub", "compiling scrub, ssd") and shown() == ""


def test_the_bar_moves_by_the_units_that_are_done(tmp_path):
    run = runner.Run("unlearn", ConfigDict({}), tmp_path / "run", None)
    run.start(10)
    bar, seen = run.progress.tasks[0], []
    for call in (
        lambda: run.advance("originals", 3, resumed=True),
        lambda: run.advance("oracles"),
        lambda: run.advance("methods", 4),
        lambda: run.extend(5),
    ):
        call()
        seen.append((bar.completed, bar.total))
    run.close()
    assert seen == [(3, 10), (4, 10), (8, 10), (8, 15)]


def test_the_bar_is_drawn_beside_what_is_printed(tmp_path):
    run = runner.Run("unlearn", ConfigDict({}), tmp_path / "run", None)
    assert run.progress.console.stderr and not run.progress.disable
    run.close()


def points(file):
    """(name, step, value) of a TensorBoard file: records of a length, a check, bytes, a check."""
    from tensorboardX.proto import event_pb2

    content, at = file.read_bytes(), 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
        yield from ((v.tag, event.step, v.simple_value) for v in event.summary.value)
        at += 16 + size


def test_rows_and_figures_are_found_again(tmp_path):
    """A second launch reads what the first one computed; what is not a number comes back as NaN."""
    row, arrays = {"loss": 0.5, "mia": float("nan")}, {"predictions": np.arange(6.0).reshape(2, 3)}
    run = runner.Run("unlearn", ConfigDict({}), tmp_path / "run", None)
    for name in ("ssd_seed0", "ssd_seed1"):
        assert not run.has_row(name) and run.row(name, lambda: (row, arrays)) == (row, arrays)
    for picture in (b"first", b"second"):
        run.write_figures({"gaps": picture})
    for name in ("ssd_seed0", "ssd_seed1"):
        run.events(name, {"loss": np.array([2.0, 1.0])})
    run.close()
    assert (tmp_path / "run" / "plots" / "gaps.png").read_bytes() == b"second"
    (file,) = (tmp_path / "run" / "tensorboard" / "ssd_seed1").iterdir()
    assert list(points(file)) == [("loss", 1, 2.0), ("loss", 2, 1.0)]
    run = runner.Run("unlearn", ConfigDict({}), tmp_path / "run", None)
    found, kept = run.row("ssd_seed0", None)
    run.close()
    assert found["loss"] == 0.5 and np.isnan(found["mia"]) and kept.keys() == arrays.keys()
    np.testing.assert_array_equal(kept["predictions"], arrays["predictions"])
    assert sorted(path.name for path in (tmp_path / "run" / "rows").iterdir()) == [
        f"ssd_seed{seed}.{kind}" for seed in (0, 1) for kind in ("json", "npz")
    ]
