import subprocess
import sys

import numpy as np
import pytest

from tests import distributed
from tests.experiments import cli

# Relative to the largest entry. Adam divides by the root of squares: where a gradient is nearly 0
# another order of its sum changes the step by much.
TOLERANCE = {
    "train": 1e-2,
    "stream": 1e-2,
    "spread": 1e-2,
    "fisher": 2e-2,
    "ssd": 2e-2,
    "ensemble": 1e-2,
    "acu": 1e-9,
}


@pytest.fixture(scope="module")
def alone():
    """By one process on one device."""
    return distributed.compute()


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 4])
def test_many_processes_compute_what_one_does(alone, tmp_path, tfds_dir, num_processes):
    out, port = tmp_path / "out.npz", cli.free_port()
    module = [sys.executable, "-m", "tests.distributed", str(out), f"localhost:{port}"]
    processes = [
        subprocess.Popen(
            [*module, str(num_processes), str(i)],
            cwd=cli.ROOT,
            env=cli.environment(tfds_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(num_processes)
    ]
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * num_processes, "\n".join(outputs)
    with np.load(out) as stored:
        together = dict(stored)
    assert together.keys() == alone.keys()
    assert {name.split("/")[0] for name in together} == set(TOLERANCE)
    for name, expected in alone.items():
        error = np.abs(together[name] - expected).max() / np.abs(expected).max()
        assert error < TOLERANCE[name.split("/")[0]], (name, error)


@pytest.mark.slow
def test_one_process_with_its_stream_or_with_all_data_trains_the_same(alone):
    for name, value in alone.items():
        if name.startswith("stream/"):
            other = alone[name.replace("stream", "train")]
            np.testing.assert_allclose(value, other, atol=1e-2 * np.abs(other).max())
