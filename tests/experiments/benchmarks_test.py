import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unlearnjax.analytic
from experiments.benchmarks import (
    analytic,
    audits,
    convolution,
    datamodels,
    drift,
    ensemble,
    fisher,
    forgetting,
    problems,
    report,
    scaling,
    search,
    suites,
    timing,
    torch_reference,
    training,
    trak,
)
from tests.experiments import cli
from unlearnjax import attribution, curvature, unlearning
from unlearnjax.types import Request

needs_torch = pytest.mark.skipif(not torch_reference.available(), reason="torch is not installed")


def test_ratios_are_relative_to_the_first_alternative():
    calls = {"quick": lambda: time.sleep(0.01), "slow": lambda: time.sleep(0.05)}
    record = timing.compare("sleep", "two naps", calls, repeats=3)
    assert record["reference"] == "quick" and set(record["ratio"]) == {"slow"}
    assert 2 < record["ratio"]["slow"] < 6
    assert record["seconds"]["quick"] >= 0.01


def test_the_work_of_a_program_is_counted():
    size, length = 64, 3
    looped = lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, length=length)[0]
    program = timing.program(looped, jnp.ones((size, size)))
    record = timing.compare("work", "products", {"ours": program}, repeats=1)
    rate = record["flops_per_second"]["ours"] * record["seconds"]["ours"]
    assert rate == pytest.approx(2 * length * size**3, rel=0.1)
    moved = record["bytes_per_second"]["ours"] * record["seconds"]["ours"]
    assert 3 * length * size**2 * 4 <= 1.1 * moved < 20 * length * size**2 * 4
    assert record["compile_seconds"]["ours"] > 0 and record["peak_bytes"]["ours"] > 0


@pytest.mark.slow
def test_every_benchmark_yields_records_and_they_become_a_report():
    digits = {"model": "mlp", "shape": (8, 8, 1), "examples": 40}
    records = [
        *training.run({"mlp": 40}, 20, ("mlp",), repeats=1),
        *fisher.run({"mlp": 20}, repeats=1),
        *forgetting.run({"mlp": 40}, 20, repeats=1),
        *convolution.run(num_steps=1, batch_size=4, repeats=1),
        *analytic.run((60,), ((32, 64, 8),), rows=8, refit_width=16, repeats=1),
        *drift.run(width=16, num_rows=40, checkpoints=(5,)),
        *ensemble.run({"mlp": digits}, (2,), num_epochs=1, batch_size=10, repeats=1),
        *trak.run({"mlp": 20}, num_projections=8, batch_size=10, repeats=1),
        *datamodels.run(((30, 20, 3),), repeats=1),
        *search.run({"mlp": 40}, (40, 60), (1, 2), batch_size=20, train_epochs=1, repeats=1),
        *audits.run(50, 20, repeats=1),
        *scaling.run((20, 40), (8, 16), (10, 20), (1, 2), base=40, repeats=1),
    ]
    assert {r["benchmark"] for r in records} == {
        "epoch", "step", "fisher", "forget", "convolution", "acu", "drift", "ensemble", "trak",
        "datamodels", "search", "audit", "scaling",
    }  # fmt: skip
    assert all(ratio > 0 for r in records for ratio in r.get("ratio", {}).values())
    # The tests have eight devices, so curves over devices are there too.
    curves = {r["case"]: list(r["seconds"]) for r in records if r["benchmark"] == "scaling"}
    assert curves["epoch, devices"] == ["1", "2", "4", "8"]
    text = report.markdown(records, {"flops_per_second": 1e9, "bytes_per_second": 1e9})
    assert all(r["case"] in text for r in records)
    assert len(report.figure(records).axes) == 2


def test_every_suite_names_benchmarks_and_their_sizes():
    import importlib
    import inspect

    for suite in suites.SUITES.values():
        for name, sizes in suite.items():
            module = importlib.import_module(f"experiments.benchmarks.{name}")
            inspect.signature(module.run).bind(**sizes)


def test_a_missed_target_is_named():
    record = {"benchmark": "trak", "case": "mlp", "ratio": {"torch": 1.5, "other": 0.1}}
    assert report.missed([record]) == ["trak, mlp: torch 1.50x, aimed at 2.0x"]
    assert report.missed([{**record, "ratio": {"torch": 2.5}}]) == []


def test_an_unknown_benchmark_is_refused(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmarks", "--only=fischer"]
    result = subprocess.run(command, cwd=cli.ROOT, capture_output=True, text=True)
    assert result.returncode != 0 and "--only must name some of" in result.stderr


def test_the_references_of_the_analytic_benchmark_compute_what_it_computes():
    with jax.enable_x64(True):
        features, targets = analytic.problem(80, 32)
        gram, inverse = analytic.states(features, targets)
        block = features[:9], targets[:9]
        (new, possible) = unlearnjax.analytic.try_forget(inverse, *block)
        weight, matrix = analytic.numpy_forget(*map(np.asarray, inverse[:2]), *block)
        assert possible
        np.testing.assert_allclose(new.weight, weight, atol=1e-10)
        np.testing.assert_allclose(new.inverse, matrix, atol=1e-10)
        solved = unlearnjax.analytic.solve(features[9:], targets[9:], analytic.GAMMA)
        np.testing.assert_allclose(new.weight, solved, atol=1e-9)
        if torch_reference.available():
            others = (
                torch_reference.woodbury(*inverse, *block)()[0],
                torch_reference.downdate(gram.gram, gram.moment, *block)(),
                torch_reference.resolve(features[9:], targets[9:], analytic.GAMMA)(),
            )
            for other in others:
                np.testing.assert_allclose(other.numpy(), new.weight, atol=1e-9)


@needs_torch
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_torch_computes_what_we_compute(model):
    """The importances, exact and not, and what SSD makes of them."""
    shape, size = (8, 8, 1), 16
    data, task = problems.images(48, shape), problems.task(model)
    forget = problems.part(data, slice(16))
    variables = task.init(jax.random.key(0), data)
    net = torch_reference.network(model, shape, variables)

    def assert_same(tensors, params):
        net = torch_reference.network(model, shape, {"params": params})
        for tensor, expected in zip(tensors, net.parameters(), strict=True):
            expected = expected.detach().numpy()
            scale = np.abs(expected).max()
            np.testing.assert_allclose(tensor.detach().numpy(), expected, atol=1e-4 * scale)

    exact = curvature.fisher_diagonal(task, variables, data)
    assert_same(torch_reference.fisher_exact(net, data)(), exact)
    assert_same(torch_reference.fisher_vmap(net, data, size)(), exact)
    batch = curvature.batch_gradient_squared(task, variables, data, batch_size=size)
    assert_same(torch_reference.fisher_batch(net, data, size)(), batch)
    method = unlearning.ssd(1.5, 0.5, importance="batch", batch_size=size)
    _, memory = method.init(None, task, variables, data)
    damped, _ = method.update(None, task, variables, memory, Request(forget=forget))
    call = torch_reference.ssd(net, data, forget, size, 1.5, 0.5)
    assert_same(call().parameters(), damped["params"])


@needs_torch
def test_projected_gradients_keep_inner_products_in_torch_as_here():
    shape = (8, 8, 1)
    data, task = problems.images(12, shape), problems.task("mlp")
    variables = task.init(jax.random.key(0), data)
    net = torch_reference.network("mlp", shape, variables)
    ours = attribution.project_gradients(
        task, variables, data, jax.random.key(1), num_projections=4096
    )[:, 0]
    for block in (None, 1000):
        theirs = torch_reference.project_gradients(net, data, 4096, 6, block)().numpy()
        scale = np.linalg.norm(ours, axis=1).mean() ** 2
        np.testing.assert_allclose(theirs @ theirs.T, ours @ ours.T, atol=0.12 * scale)


@needs_torch
def test_torch_trains_and_forgets():
    shape = (8, 8, 1)
    data = problems.images(40, shape)
    forget, retain = problems.part(data, slice(8)), problems.part(data, slice(8, None))
    net = torch_reference.network("convnet", shape)
    before = [p.detach().clone() for p in net.parameters()]
    scrubbed = torch_reference.scrub(net, forget, retain, 8, 1e-3, **forgetting.SCRUB)()
    ascended = torch_reference.ascent_plus(net, forget, retain, 8, 1e-3, 0.9)()
    trained = torch_reference.epoch(net, data, 8, 0.1)()
    for other in (scrubbed, ascended, trained):
        assert all((a != b).any() for a, b in zip(before, other.parameters(), strict=True))


def test_drift_is_rounding_in_float64_and_bounded_in_float32():
    records = {r["case"]: r for r in drift.run(width=32, num_rows=60, checkpoints=(5, 50))}
    assert len(records) == 4
    for case, record in records.items():
        assert record["50"] < (1e-9 if "float64" in case else 1e-2), case
