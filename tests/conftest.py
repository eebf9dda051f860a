"""Fixtures; every test runs with eight fake CPU devices, of which most use the first."""

import os

import jax
import numpy as np
import pytest

from experiments.common import compilation
from tests import compiler, problems

jax.config.update("jax_num_cpu_devices", 8)


def pytest_configure(config):
    """Before the first use of a device, when XLA reads its flags; child processes inherit them.

    Slow tests, notebooks and benchmarks keep the real compiler, and so do users. What is compiled
    is kept for the next run, and for workers beside this one; `pytest --cache-clear` drops it.
    """
    if "not slow" in config.option.markexpr:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {compiler.QUICK}".strip()
    if hasattr(config, "cache"):  # not with `-p no:cacheprovider`
        folder = config.cache.mkdir(f"xla-{compilation.machine()}")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops a file's compiled programs: thousands of them pass the kernel's limit of mappings."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def digits():
    """All 1,797 real digits, standardised; `index` is the position."""
    return problems.digits()


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """A directory of prepared data sets and compiled programs, shared by all tests of one run."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tfds"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def real_data_dir():
    """The directory of large prepared data sets, for tests marked `realdata`."""
    directory = os.environ.get("UNLEARNJAX_DATA_DIR")
    if not directory:
        pytest.skip("UNLEARNJAX_DATA_DIR is not set")
    return directory


@pytest.fixture
def rng():
    return np.random.default_rng(0)
