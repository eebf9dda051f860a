import time

import pytest

from experiments.benchmarks import convolution, epoch, fisher, timing


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
    ]
    assert {record["benchmark"] for record in small} == {"fisher", "epoch", "convolution"}
    assert all(ratio > 0 for record in small for ratio in record["ratio"].values())
