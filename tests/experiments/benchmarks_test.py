import time

import jax
import numpy as np
import pytest

import unlearnjax.analytic
from experiments.benchmarks import (
    analytic,
    convolution,
    drift,
    ensemble,
    epoch,
    fisher,
    search,
    timing,
    trak,
)


def test_ratios_are_relative_to_the_first_alternative():
    calls = {"quick": lambda: time.sleep(0.01), "slow": lambda: time.sleep(0.05)}
    record = timing.compare("sleep", "two naps", calls, repeats=3)
    assert record["reference"] == "quick" and set(record["ratio"]) == {"slow"}
    assert 2 < record["ratio"]["slow"] < 6
    assert record["seconds"]["quick"] >= 0.01


@pytest.mark.slow
def test_every_benchmark_yields_records():
    small = [
        *fisher.run(num_examples=20, repeats=1),
        *epoch.run(num_examples=40, batch_size=20, repeats=1),
        *convolution.run(num_steps=1, batch_size=4, repeats=1),
        *analytic.run(sizes=(60,), widths=(32,), rows=8, repeats=1),
        *ensemble.run(num_models=2, num_examples=40, num_epochs=1, batch_size=10, repeats=1),
        *trak.run(num_examples=20, num_projections=8, batch_size=10, repeats=1),
        *search.run(40, (40,), (1,), batch_size=20, train_epochs=1, repeats=1),
    ]
    names = {"fisher", "epoch", "convolution", "analytic", "ensemble", "trak", "search"}
    assert {record["benchmark"] for record in small} == names
    assert all(ratio > 0 for record in small for ratio in record["ratio"].values())


def test_the_references_of_the_analytic_benchmark_compute_what_it_computes():
    with jax.enable_x64(True):
        features, targets = analytic.problem(80, 32)
        gram, inverse = analytic.states(features, targets)
        block = features[:9], targets[:9]
        (new, possible) = unlearnjax.analytic.try_forget(inverse, *block)
        weight, matrix = analytic.numpy_forget(*(np.asarray(x) for x in inverse), *block)
        assert possible
        np.testing.assert_allclose(new.weight, weight, atol=1e-10)
        np.testing.assert_allclose(new.inverse, matrix, atol=1e-10)
        solved = unlearnjax.analytic.solve(features[9:], targets[9:], analytic.GAMMA)
        np.testing.assert_allclose(new.weight, solved, atol=1e-9)


def test_drift_is_rounding_in_float64_and_bounded_in_float32():
    records = {r["case"]: r for r in drift.run(width=32, num_rows=60, checkpoints=(5, 50))}
    assert len(records) == 4
    for case, record in records.items():
        assert record["50"] < (1e-9 if "float64" in case else 1e-2), case
