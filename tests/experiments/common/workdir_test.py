import json
import os
import signal
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from experiments.common import runner, workdir
from tests import disks
from tests.experiments import cli

CONFIG = {"seed": 0}


def run_of(path, config=CONFIG):
    return runner.Run("unlearn", ConfigDict(config), path, None)


def files(path):
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


def test_a_directory_belongs_to_one_run_at_a_time(tmp_path):
    first = run_of(tmp_path / "run")
    with pytest.raises(ValueError, match="run is in use by a run that has not ended"):
        run_of(tmp_path / "run")
    # Runs within it share the claim; what is beside it is free.
    inner = first.sub("inner", ConfigDict(CONFIG))
    inner.close()
    run_of(tmp_path / "other").close()
    run_of(tmp_path / "not" / "yet" / "there").close()
    with pytest.raises(ValueError, match="in use"):
        run_of(tmp_path / "run")
    first.close()
    run_of(tmp_path / "run").close()


def test_a_killed_run_leaves_no_lock_behind(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from experiments.common import workdir\n"
        "held = workdir.claim(Path(sys.argv[1]), {'seed': 0})\n"
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=cli.ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="in use by a run that has not ended"):
        workdir.claim(tmp_path / "run", CONFIG)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "run" / workdir.LOCK).exists()
    workdir.claim(tmp_path / "run", CONFIG).close()


def test_where_nothing_was_computed_another_config_may_begin(tmp_path):
    path = tmp_path / "run"
    run_of(path).close()
    assert json.loads((path / "config.json").read_text()) == CONFIG
    (path / "checkpoints" / "original_seed0").mkdir(parents=True)
    (path / "checkpoints" / "original_seed0" / workdir.checkpoints.MARKER).touch()
    assert workdir.idle(path)
    run_of(path, {"seed": 1}).close()
    assert json.loads((path / "config.json").read_text()) == {"seed": 1}
    (path / "config.json").write_text('{"se')  # killed while it was written by other means
    run_of(path, {"seed": 2}).close()
    (path / "rows").mkdir()
    (path / "rows" / "ssd_seed0.json").write_text("{}")
    assert not workdir.idle(path)
    with pytest.raises(ValueError, match=r"another configuration \(config.seed: stored 2, now 3\)"):
        run_of(path, {"seed": 3})
    (path / "config.json").write_text('{"se')
    with pytest.raises(ValueError, match="config.json is damaged"):
        run_of(path, {"seed": 2})


def test_a_failed_run_that_computed_nothing_leaves_nothing(tmp_path):
    config = cli.make_config("configs/unlearn.py:digits,method=ssd")
    inner = tmp_path / "run" / "inner" / "checkpoints"

    def refused(config, run):
        run.sub("inner", config)
        inner.mkdir()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        runner.execute(refused, "unlearn", config, tmp_path / "run", None)
    assert files(tmp_path / "run") == [workdir.LOCK]
    config.seed = 5

    def diverged(config, run):
        run.row("first", lambda: ({"x": 1.0}, {}))
        raise FloatingPointError("late")

    with pytest.raises(FloatingPointError, match="late"):
        runner.execute(diverged, "unlearn", config, tmp_path / "run", None)
    assert {"config.json", "rows/first.json"} <= set(files(tmp_path / "run"))
    with pytest.raises(FloatingPointError):  # and the lock is free
        runner.execute(diverged, "unlearn", config, tmp_path / "run", None)


def test_what_is_not_ours_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    for path, message in (
        (tmp_path, "is not empty and holds no run of unlearnjax"),
        (tmp_path / "thesis.tex", "thesis.tex is not a directory"),
        (tmp_path / "thesis.tex" / "below", "below is not a directory"),
        (tmp_path / ("x" * 300), "cannot be made: File name too long"),
    ):
        with pytest.raises(ValueError, match=message):
            run_of(path)
    assert files(tmp_path) == before
    with pytest.raises(ValueError, match="/proc/run cannot be made"):
        workdir.claim(cli.Path("/proc/run"), CONFIG)


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(workdir.table, "write_json", refuse)
    with pytest.raises(ValueError, match="run cannot be written: Read-only file system"):
        run_of(tmp_path / "run")
    monkeypatch.undo()
    run_of(tmp_path / "run").close()  # the lock was given back
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match="run cannot be written: Read-only file system, or choose"):
        run_of(tmp_path / "run")


def test_file_systems_without_locks_go_without(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(workdir.fcntl, "flock", unsupported)
    run_of(tmp_path / "run").close()
    monkeypatch.setattr(workdir, "fcntl", None)
    run_of(tmp_path / "run").close()


def test_all_processes_are_refused_with_the_main_one(tmp_path, monkeypatch):
    first = run_of(tmp_path / "run")
    sent = []
    monkeypatch.setattr(workdir.jax, "process_count", lambda: 2)
    monkeypatch.setattr(workdir.parallel, "sync", lambda name: None)
    broadcast = lambda value: sent.append(int(value)) or (sent[0] if sent else value)
    monkeypatch.setattr(workdir.multihost_utils, "broadcast_one_to_all", broadcast)
    with pytest.raises(ValueError, match="in use"):
        workdir.claim(tmp_path / "run", CONFIG)
    monkeypatch.setattr(workdir.parallel, "is_main_process", lambda: False)
    with pytest.raises(ValueError, match="was refused to the main process"):
        workdir.claim(tmp_path / "run", CONFIG)
    assert sent == [1, 0]
    sent[:] = [0]
    assert workdir.claim(tmp_path / "run", CONFIG) is None  # only the main process holds it
    first.close()


def test_a_disk_that_becomes_full_is_one_line_and_the_rows_before_are_kept(tmp_path):
    config = cli.make_config("configs/unlearn.py:digits,method=ssd")
    done = []

    def story(config, run):
        run.start(1)
        for number in range(4):

            def compute(number=number):
                done.append(number)
                noise = os.urandom(60_000)
                return {"x": float(number)}, {"noise": workdir.np.frombuffer(noise, "uint8")}

            run.row(f"row_{number}", compute)
            run.events(f"row_{number}", {"loss": workdir.np.arange(3.0)})

    with disks.small(tmp_path / "disk", 200_000):
        path = tmp_path / "disk" / "run"
        with pytest.raises(OSError) as caught:
            runner.execute(story, "unlearn", config, path, None)
        assert str(caught.value) == f"{path} cannot be written: No space left on device"
        kept = sorted(row.stem for row in (path / "rows").glob("*.json"))
        assert kept == [f"row_{number}" for number in done[:-1]] != []
        with pytest.raises(OSError):
            runner.execute(story, "unlearn", config, path, None)
        assert done[-1] == done[-2]  # only what was not finished is computed again


def test_differences_are_named_by_field():
    stored, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert workdir.differences(stored, new) == [
        "config.a.c: stored 2, now 5",
        "config.d: stored 3, now None",
        "config.e: stored None, now 4",
    ]
    assert workdir.differences(stored, dict(stored)) == []
