"""Fixtures of the benchmarks' tests."""

import jax
import pytest

from experiments.benchmarks import timing


@pytest.fixture
def quickly(monkeypatch):
    """For what asks whether benchmarks work, not how fast: little is compiled, and not well."""
    monkeypatch.setattr(timing, "_traffic", lambda program: 0.0)  # compiles all of it again
    monkeypatch.setattr(jax, "device_count", lambda: 2)  # of eight
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
