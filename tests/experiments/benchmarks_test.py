import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unlearnjax.analytic
from experiments.benchmarks import (
    adapters,
    analytic,
    audits,
    backdoor,
    convolution,
    datamodels,
    diffusion,
    drift,
    ensemble,
    fisher,
    forgetting,
    graphs,
    hooks,
    language,
    protection,
    report,
    scaling,
    search,
    style_grid,
    suites,
    timing,
    torch_models,
    torch_reference,
    training,
    trak,
    weights,
)
from tests.experiments import cli

LLAMA = {
    "config": {"vocab_size": 7, "width": 8, "depth": 1, "num_heads": 2, "mlp_width": 8},
    "batch": 3,
    "length": 4,
}
DIT = {"model": "dit", "shape": (4, 4, 1), "batch": 5, "options": {"width": 8, "depth": 1}}
SMALL_TEXT = {"width": 8, "depth": 1, "num_heads": 2}


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
def test_every_benchmark_yields_records_and_they_become_a_report(quickly, monkeypatch):
    monkeypatch.setattr("unlearnjax.audit.cost._flops", lambda program: 1.0)  # lowers every loop
    digits = {"model": "mlp", "shape": (8, 8, 1), "examples": 40}
    records = [
        *training.run({"mlp": 40}, 20, ("mlp",), repeats=1),
        *fisher.run({"mlp": 20}, repeats=1),
        *forgetting.run({"mlp": 40}, 20, repeats=1),
        *convolution.run(num_steps=1, batch_size=4, repeats=1),
        *analytic.run((60,), ((32, 64, 8),), rows=8, refit_width=16, repeats=1),
        *drift.run(width=16, num_rows=40, checkpoints=(5,)),
        *ensemble.run({"mlp": digits}, (2,), num_epochs=1, batch_size=10, repeats=1),
        *graphs.run(30, 40, 12, 3, (2,), num_epochs=1, deleted=2, repeats=1),
        *trak.run({"mlp": 20}, num_projections=8, batch_size=10, repeats=1),
        *datamodels.run(((30, 20, 3),), repeats=1),
        *search.run({"mlp": 40}, (40, 60), (1, 2), batch_size=20, train_epochs=1, repeats=1),
        *audits.run(50, 20, repeats=1),
        *adapters.run({"mlp": 20}, 2, shape=(8, 8, 1), repeats=1),
        *diffusion.run({"DiT": DIT}, 4, 2, chunk=3, oracles=2, repeats=1),
        *backdoor.run({"mlp": {**digits, "images": 6}}, 2, 1, 1, batch_size=10, repeats=1),
        *hooks.run({"mlp": "Dense_0"}, {"mlp": 40}, repeats=1),
        *language.run({"Llama": LLAMA}, 3, 2, rank=1, oracles=2, repeats=1),
        *protection.run(20, (6, 6, 1), 3, 3, 5, ("mlp",), 10, 2, repeats=1),
        *style_grid.run(1, 2, 2, 1, options=SMALL_TEXT, repeats=1),
        *weights.run("vit_small", 16, {"depth": 1, "width": 6}, repeats=1),
        *scaling.run((20, 40), (8, 16), (10, 20), (1, 2), base=40, repeats=1),
    ]
    assert {r["benchmark"] for r in records} == {
        "epoch", "step", "fisher", "forget", "convolution", "acu", "drift", "ensemble", "trak",
        "datamodels", "search", "audit", "adapters", "scaling", "capture", "weights",
        "denoise", "sample", "oracles", "graphs", "language_step", "decode", "language_oracles",
        "npo", "language_lora", "answers", "esd", "uce", "population", "triggers", "protect",
        "adversarial step",
    }  # fmt: skip
    stored = [r["stored_bytes"] for r in records if r["benchmark"] == "uce"]
    assert stored == [{"ours": 2 * 64 * 8 * 4}]  # two kernels of 64 x 8 numbers
    assert all(ratio > 0 for r in records for ratio in r.get("ratio", {}).values())
    # There are several devices, so curves over devices are there too.
    curves = {r["case"]: list(r["seconds"]) for r in records if r["benchmark"] == "scaling"}
    assert curves["epoch, devices"] == ["1", "2"]
    text = report.markdown(records, {"flops_per_second": 1e9, "bytes_per_second": 1e9})
    assert all(r["case"] in text for r in records)
    assert len(report.figure(records).axes) == 2


def test_every_suite_names_benchmarks_and_their_sizes():
    import importlib
    import inspect

    for suite in suites.SUITES.values():
        for case in suite.values():
            module = importlib.import_module(f"experiments.benchmarks.{case.benchmark}")
            inspect.signature(module.run).bind(**case.sizes)


def test_the_loop_over_sampling_steps_draws_what_the_program_draws():
    made = diffusion.problem(DIT, num_steps=3)
    made = made._replace(variables=jax.tree.map(lambda x: x + 0.1, made.variables))
    calls = diffusion.sampling(made, 5, 3, 2, "float32")
    images = calls["ours"]()
    assert images.shape == (5, 4, 4, 1) and np.abs(images[0] - images[1]).max() > 0
    np.testing.assert_allclose(calls["python loop"](), images, rtol=1e-4, atol=1e-5)


def test_one_program_draws_what_prompt_after_prompt_draws_and_uce_is_what_numpy_solves():
    made = style_grid.problem(4, 2, SMALL_TEXT)
    few = made._replace(prompts=made.prompts[:1, :3])
    calls = style_grid.answers(few, 2)
    images = calls["ours"]()
    assert images.shape == (3, 2, 4, 4, 3) and np.abs(images[0] - images[1]).max() > 1e-3
    np.testing.assert_allclose(calls["prompt by prompt"](), images, rtol=1e-4, atol=1e-5)
    calls = style_grid.editing(made)
    edited, expected = calls["ours"](), calls["numpy"]()
    before = made.variables["params"]["denoiser"]["block_0"]["cross"]
    assert sorted(expected) == [("block_0", "key"), ("block_0", "value")]
    for (block, layer), kernel in expected.items():
        found = edited["denoiser"][block]["cross"][layer]["kernel"]
        np.testing.assert_allclose(found, kernel, rtol=1e-4, atol=1e-6)
        assert np.abs(found - before[layer]["kernel"]).max() > 1e-4


def test_bytes_of_a_step_on_adapters_are_those_of_the_adapters():
    """Two moments, the count and the gradient: 3 n + 1 numbers of 4 bytes."""
    sizes = {"mlp": 2}
    (record,) = adapters.run(sizes, 2, shape=(8, 8, 1), options={"hidden": (16,)}, repeats=1)
    numbers = {
        "lora, rank 2": 2 * (64 + 16) + 2 * (16 + 10),
        "whole model": 64 * 16 + 16 + 16 * 10 + 10,
        "last layer": 16 * 10 + 10,
    }
    assert record["kept_bytes"] == {name: 4 * (3 * n + 1) for name, n in numbers.items()}
    assert set(record["ratio"]) == {"whole model", "last layer"}
    share = (3 * 212 + 1) / (3 * 1210 + 1)
    assert record["kept_share"]["lora, rank 2"] == pytest.approx(share)
    # More than is aimed at of a model that is hardly larger than its changes.
    missed = [line for line in report.missed([record]) if "kept share" in line]
    assert missed == [f"adapters, {record['case']}: kept share {share:.3g}, at most 0.1"]


def test_a_missed_target_is_named():
    record = {"benchmark": "trak", "case": "mlp", "ratio": {"torch": 1.5, "other": 0.1}}
    assert report.missed([record]) == ["trak, mlp: torch 1.50x, aimed at 2.0x"]
    assert report.missed([{**record, "ratio": {"torch": 2.5}}]) == []


def test_limits_are_of_the_reference_alone():
    record = {"benchmark": "weights", "case": "vit", "reference": "tensor by tensor"}
    at = lambda ours: {"largest_tensors": {"tensor by tensor": ours, "the whole file": 9.0}}
    assert report.missed([record | at(1.2)]) == [] == report.missed([{**record, "failed": {}}])
    assert report.missed([record | at(1.5)]) == ["weights, vit: largest tensors 1.5, at most 1.2"]


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
        if torch_models.available():
            others = (
                torch_reference.woodbury(*inverse[:2], *block)()[0],
                torch_reference.downdate(gram.gram, gram.moment, *block)(),
                torch_reference.resolve(features[9:], targets[9:], analytic.GAMMA)(),
            )
            for other in others:
                np.testing.assert_allclose(other.numpy(), new.weight, atol=1e-9)


def test_drift_is_rounding_in_float64_and_bounded_in_float32():
    records = {r["case"]: r for r in drift.run(width=32, num_rows=60, checkpoints=(5, 50))}
    assert len(records) == 4
    for case, record in records.items():
        assert record["50"] < (1e-9 if "float64" in case else 1e-2), case
