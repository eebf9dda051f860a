"""What is compiled, and when."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.common import compilation
from tests.experiments import cli

CONFIG = "configs/unlearn.py:digits,model=mlp,seeds=1,method=finetune+ssd"
# Runs an experiment and counts compilations, and how many of them the cache spared.
COUNTED = """
import atexit, json, sys
import jax
counts = {"compiled": 0, "hits": 0}
names = {"/jax/core/compile/backend_compile_duration": "compiled"}
def duration(event, seconds, **_):
    if event in names:
        counts[names[event]] += 1
def happened(event, **_):
    counts["hits"] += event == "/jax/compilation_cache/cache_hits"
jax.monitoring.register_event_duration_secs_listener(duration)
jax.monitoring.register_event_listener(happened)
atexit.register(lambda: print("counts", json.dumps(counts)))
from experiments import unlearn
from experiments.common import runner
runner.launch(unlearn.story, "unlearn")
"""


def counts(workdir, tfds_dir, *flags, **extra):
    arguments = cli.command(workdir, *cli.SMALL, *flags, config=CONFIG)[3:]
    process = subprocess.run(
        [sys.executable, "-c", COUNTED, *arguments],
        cwd=cli.ROOT,
        env=cli.environment(tfds_dir, **extra),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    line = next(x for x in process.stdout.splitlines() if x.startswith("counts"))
    return json.loads(line.removeprefix("counts "))


@pytest.mark.slow
def test_nothing_is_compiled_anew_for_a_batch_an_epoch_or_a_seed(tmp_path, tfds_dir):
    few = counts(tmp_path / "few", tfds_dir, "--config.num_seeds=2")
    more = counts(
        tmp_path / "more", tfds_dir, "--config.num_seeds=4", "--config.train.num_epochs=5"
    )
    assert few["compiled"] == more["compiled"] > 10


@pytest.mark.slow
def test_a_second_launch_finds_what_the_first_compiled(tmp_path, tfds_dir):
    cache = {"UNLEARNJAX_COMPILATION_CACHE": str(tmp_path / "compiled")}
    first = counts(tmp_path / "first", tfds_dir, **cache)
    (folder,) = (tmp_path / "compiled").iterdir()
    assert folder.name == compilation.machine()
    stored = len(list(folder.glob("*-cache")))
    second = counts(tmp_path / "second", tfds_dir, **cache)
    assert second["hits"] >= stored > 10 > first["hits"]
    assert second["compiled"] == first["compiled"]  # jax counts what it looked up, too
    for path in (tmp_path / "first" / "rows").glob("*.npz"):
        with np.load(path) as a, np.load(tmp_path / "second" / "rows" / path.name) as b:
            assert all((a[name] == b[name]).all() for name in a)


@pytest.mark.slow
def test_without_a_directory_nothing_is_kept(tmp_path, tfds_dir):
    found = counts(tmp_path / "run", tfds_dir, "--compilation_cache=")
    assert found["hits"] == 0


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"UNLEARNJAX_COMPILATION_CACHE": "/a"}, "/a"),
        ({"UNLEARNJAX_COMPILATION_CACHE": ""}, ""),
        ({"JAX_COMPILATION_CACHE_DIR": "/b"}, ""),
        ({"XDG_CACHE_HOME": "/c"}, "/c/unlearnjax/xla"),
    ],
)
def test_where_the_cache_is(monkeypatch, environment, expected):
    for name in ("UNLEARNJAX_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert compilation.default_directory() == expected
