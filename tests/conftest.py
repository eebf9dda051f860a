"""Fixtures; every test runs with eight fake CPU devices, of which most use the first."""

import contextlib
import gc
import os

import jax
import numpy as np
import pytest

from experiments.common import compilation
from tests import compiler, problems

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_traceback_in_locations_limit", 0)  # a quarter of lowering; nobody reads it


def pytest_configure(config):
    """Before the first use of a device, when XLA reads its flags; child processes inherit them.

    Slow tests of whole runs, notebooks and benchmarks keep the real compiler, and so do users. What
    is compiled is kept for the next run, and for workers beside this one; `pytest --cache-clear`
    drops it.
    """
    if "not slow" in config.option.markexpr:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {compiler.QUICK}".strip()
    if hasattr(config, "cache"):  # not with `-p no:cacheprovider`
        folder = config.cache.mkdir(f"xla-{compilation.machine()}")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_collection_finish():
    """What is imported by now stays: nobody need look through it for garbage, over and over."""
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def compiling_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True, scope="module")
def library_compiles_quickly(request):
    """Slow or not, the library is tested on toys, whose programs are compiled longer than they run.

    The real compiler takes five times as long for a training loop of a small transformer.
    """
    if "experiments" in request.path.parts:
        yield
    else:
        with compiling_quickly():
            yield


@pytest.fixture
def quick_compiler():
    """The same for experiments in this process that are as small."""
    with compiling_quickly():
        yield


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
