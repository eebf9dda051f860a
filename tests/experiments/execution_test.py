"""Suites of benchmarks within a limit of time, and the suite for one GPU."""

import json
import re
import sys
import threading
import time
import types

import numpy as np
import pytest

from experiments.benchmarks import (
    __main__,
    ceilings,
    execution,
    problems,
    report,
    suites,
    timing,
    torch_models,
)

HEADER = {
    "environment": {
        "num_devices": 1,
        "device": "NVIDIA H100 80GB HBM3",
        "backend": "gpu",
        "cpu_count": 16,
        "cpu": "some CPU",
        "jax": "0.10",
        "torch": "not installed",
    },
    "ceilings": {"flops_per_second": 2e14, "bfloat16_flops_per_second": 8e14},
    "datasheet": ceilings.datasheet("NVIDIA H100 80GB HBM3"),
}


def record(**changes):
    """Of two seconds, in which 8e14 operations were done."""
    return {
        "benchmark": "fisher",
        "case": "convnet, 10 examples",
        "seconds": {"ours": 2.0, "torch": 6.0},
        "reference": "ours",
        "ratio": {"torch": 3.0},
        "dtype": "float32",
        "sampled": {},
        "failed": {},
        "compile_seconds": {"ours": 1.0},
        "flops_per_second": {"ours": 4e13},
        "bytes_per_second": {},
        "peak_bytes": {"ours": 10**9},
        **changes,
    }


@pytest.fixture
def benchmark(monkeypatch):
    """Makes a case of a function that is called as a benchmark's `run`."""

    def case(run, seconds=0.0):
        name = f"fake{len([m for m in sys.modules if 'benchmarks.fake' in m])}"
        module = types.SimpleNamespace(run=run)
        monkeypatch.setitem(sys.modules, f"experiments.benchmarks.{name}", module)
        return suites.Case(name, {}, seconds)

    return case


def one(case):
    return lambda: iter([record(case=case)])


def cells(text, line):
    """A line of the first table: header -> cell."""
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("|")]
    return dict(zip(rows[0], rows[2 + line], strict=True))


def test_a_case_that_fails_is_noted_and_the_others_go_on(tmp_path, benchmark, capsys):
    def fails():
        yield record(case="before")
        raise MemoryError("no room\nand a page of details")

    folder = tmp_path / "new" / "folder"
    log = execution.Log(folder, HEADER)
    execution.run({"bad": benchmark(fails), "good": benchmark(one("after"))}, log)
    assert [r["case"] for r in log.records] == ["before", "bad", "after"]
    assert log.records[1]["missing"] == "failed: MemoryError: no room"
    assert execution.failed(log.records) and not execution.failed(log.records[:1])
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].endswith(": bad: failed: MemoryError: no room")
    assert re.fullmatch(r" +\d s  fisher: after", lines[2])  # since the log began
    text = (folder / "table.md").read_text()
    assert "| bad | failed: MemoryError: no room |" in text and "| fisher | after |" in text


def test_all_that_is_known_is_on_disk_after_every_record(tmp_path, benchmark):
    seen = []

    def looks():
        yield record(case="first")
        stored = json.loads((tmp_path / "results.json").read_text())
        lines = (tmp_path / "records.jsonl").read_text().splitlines()
        assert [r["case"] for r in stored["records"]] == [json.loads(lines[-1])["case"]]
        assert stored["ceilings"] == HEADER["ceilings"] and len(lines) == 2
        seen.append((tmp_path / "table.md").read_text())

    execution.run({"looks": benchmark(looks)}, execution.Log(tmp_path, HEADER))
    assert seen[0].startswith("1 x NVIDIA H100") and "first" in seen[0]


def test_what_would_not_end_in_time_is_left_out(tmp_path, benchmark):
    log = execution.Log(tmp_path, HEADER)
    cases = {"long": benchmark(one("long"), 50.0), "short": benchmark(one("short"), 5.0)}
    execution.run(cases, log, limit=30)
    assert log.records[0]["missing"] == "left out: it takes about 50 s, 30 s were left"
    assert [r["case"] for r in log.records] == ["long", "short"]
    assert not execution.failed(log.records)  # as it was told
    execution.run({"short": cases["short"]}, log, limit=-1)
    assert log.records[-1]["missing"] == "left out: it takes about 5 s, 0 s were left"


def test_what_does_not_end_in_time_is_stopped(tmp_path, benchmark, monkeypatch):
    stopped = threading.Event()
    status = []
    monkeypatch.setattr(execution.os, "_exit", lambda s: (status.append(s), stopped.set()))

    def endless():
        assert stopped.wait(20)
        yield record(case="too late")

    log = execution.Log(tmp_path, HEADER)
    execution.run({"endless": benchmark(endless)}, log, limit=1)
    assert status == [1] and log.records[0]["missing"] == "stopped: the time was up"
    assert "stopped" in (tmp_path / "table.md").read_text()
    execution.run({"quick": benchmark(one("quick"))}, log, limit=60)
    alarms = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for alarm in alarms:  # is off
        alarm.join(20)
        assert not alarm.is_alive()
    assert status == [1]


def test_times_of_a_sample_are_scaled_and_what_fails_is_left_out():
    def fails():
        raise RuntimeError("no room")

    nap = lambda: time.sleep(0.02)
    calls = {"ours": nap, "part": timing.Sample(nap, 0.1), "all": timing.Sample(nap, 1.0)}
    result = timing.compare(
        "nap", "two", {**calls, "bad": fails}, 1, "bfloat16", {"images": 100, "models": 3}
    )
    assert 0.2 <= result["seconds"]["part"] < 0.5 and result["ratio"]["part"] > 5
    assert result["sampled"] == {"part": 0.1} and set(result["ratio"]) == {"part", "all"}
    assert result["failed"] == {"bad": "RuntimeError: no room"} and result["dtype"] == "bfloat16"
    rate = result["images_per_second"]["ours"] * result["seconds"]["ours"]
    assert rate == pytest.approx(100, rel=0.01)
    models = result["models_per_second"]["ours"] * result["seconds"]["ours"]
    assert models == pytest.approx(3, rel=0.01)
    with pytest.raises(RuntimeError, match="no room"):
        timing.compare("nap", "bad", {"ours": fails}, 1)
    turns = []
    timing.compare("turns", "", {n: lambda n=n: turns.append(n) for n in "ab"}, repeats=2)
    assert turns == ["a", "b"] * 3  # one to warm up


def test_shares_are_of_the_peak_in_the_type_that_is_computed_in():
    half = record(dtype="bfloat16", images_per_second={"ours": 1234.4})
    text = report.markdown([record(), half], HEADER["ceilings"], HEADER["datasheet"])
    assert cells(text, 0)["of matmul"] == "20 %" and cells(text, 1)["of matmul"] == "5 %"
    # 40 of 494.7 and of 989.4 TFLOP/s.
    assert cells(text, 0)["of datasheet"] == "8 %" and cells(text, 1)["of datasheet"] == "4 %"
    assert cells(text, 1)["rate"] == "1234 images/s" and cells(text, 0)["rate"] == ""
    assert "of copy" not in text  # not measured
    plain = report.markdown([record()], HEADER["ceilings"])
    assert "datasheet" not in plain and "rate" not in plain


def test_the_report_names_goals_samples_and_failures():
    slow = record(
        case="resnet18, 50000 random images",
        seconds={"ours": 6.0},
        sampled={"torch": 0.02},
        failed={"torch.func": "RuntimeError: no room"},
    )
    fast = {**slow, "benchmark": "forget", "case": "ssd, resnet18, 5000 of 50000 random images"}
    text = report.markdown([slow, {**fast, "seconds": {"ours": 4.0}}], HEADER["ceilings"])
    assert cells(text, 0)["ours"] == "6 s (aim 5 s, missed)"
    assert cells(text, 1)["ours"] == "4 s (aim 5 s)"
    others = cells(text, 0)["others, times as slow"]
    assert others == "torch: 3 (of 2 %, scaled), torch.func: failed (RuntimeError: no room)"
    lines = report.missed([slow, {**fast, "seconds": {"ours": 4.0}}, {"benchmark": "", "case": ""}])
    assert lines == ["fisher, resnet18, 50000 random images: 6 s, aimed at 5 s"]
    machine = report.machine(HEADER)
    assert "Matrix product in float32: 200 TFLOP/s (494.7 by the datasheet)" in machine
    assert "Matrix product in bfloat16: 800 TFLOP/s (989.4 by the datasheet)" in machine


def test_what_is_just_in_time_is_not_missed():
    on_time = record(case="resnet18, 50000 random images", seconds={"ours": 5.0})
    assert report.missed([on_time]) == []
    assert cells(report.markdown([on_time], {}), 0)["ours"] == "5 s (aim 5 s)"
    assert cells(report.markdown([record(seconds={"ours": 1.0})], {}), 0)["ours"] == "1 s"


def test_the_plot_has_a_bar_per_other_and_a_line_per_curve():
    curve = record(benchmark="scaling", seconds={"1": 1.0, "2": 2.0, "4": 8.0}, ratio={"2": 2.0})
    others = record(ratio={"ours, map": 2.0, "torch": 3.0})
    left, right = report.figure([others, curve, {"benchmark": "x", "missing": "", "case": ""}]).axes
    assert [bar.get_width() for bar in left.patches] == [3.0] and len(right.lines) == 1
    assert report.exponent(curve) == pytest.approx(2)  # between the last two points


@pytest.mark.parametrize(
    "kind, tera",
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v4", 275),
        ("NVIDIA L40", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),  # has no bfloat16
        ("cpu", None),
    ],
)
def test_datasheets_are_those_of_the_device(kind, tera):
    found = ceilings.datasheet(kind).get("bfloat16")
    assert found == (None if tera is None else pytest.approx(tera * 1e12))


def test_ceilings_are_measured_in_what_the_backend_computes():
    found = ceilings.measure(width=32, megabytes=1, repeats=1)
    assert set(found) == {"flops_per_second", "float64_flops_per_second", "bytes_per_second"}
    assert all(value > 0 for value in found.values())


def test_the_gpu_suite_is_refused_without_one():
    with pytest.raises(ValueError, match="gpu needs a GPU or a TPU; --suite=gpu_toy is its dry"):
        __main__.chosen("gpu", [], None)


def test_data_dir_replaces_random_images(monkeypatch):
    asked = []
    monkeypatch.setattr(problems, "cifar10", asked.append)
    cases = __main__.chosen("gpu_toy", ["fisher", "analytic"], "somewhere")
    assert {c.benchmark: c.sizes.get("source") for c in cases.values()} == {
        "fisher": "somewhere",
        "analytic": None,
    }
    assert asked == ["somewhere"]
    assert __main__.chosen("gpu_toy", ["fisher"], None) == {
        name: c for name, c in suites.GPU_TOY.items() if c.benchmark == "fisher"
    }
    assert (
        __main__.chosen("quick", ["fisher"], "somewhere")["fisher"].sizes == suites.QUICK["fisher"]
    )
    assert asked == ["somewhere"]


def test_images_are_named_by_where_they_are_from(monkeypatch):
    train = {
        "inputs": np.ones((5, 32, 32, 3), np.float32),
        "targets": np.arange(5, dtype=np.int32),
        "index": np.arange(5, dtype=np.int32),
        "id": np.array(["a", "b", "c", "d", "e"]),
    }
    monkeypatch.setattr(problems, "cifar10", lambda data_dir: train)
    data, kind = problems.examples(3, (28, 28, 1), "somewhere")
    assert kind == "CIFAR-10 images" and data["targets"].tolist() == [0, 1, 2]
    assert data["inputs"].shape == (3, 32, 32, 3) and "id" not in data
    with pytest.raises(ValueError, match="has 5 images, asked for 6"):
        problems.examples(6, (28, 28, 1), "somewhere")
    data, kind = problems.examples(3, (28, 28, 1), "random")
    assert kind == "random images" and data["inputs"].shape == (3, 32, 32, 3)
    assert problems.examples(3, (8, 8, 1))[0]["inputs"].shape == (3, 8, 8, 1)
    problem = problems.problem("mlp", 2, (8, 8, 1), dtype="bfloat16", hidden=(4,))
    assert problem.text == "2 examples" and problem.shape == (8, 8, 1)
    assert {x.dtype.name for x in problem.variables["params"]["Dense_0"].values()} == {"float32"}


def test_a_directory_without_cifar_10_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="data_dir must have CIFAR-10 prepared"):
        __main__.chosen("gpu_toy", [], str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.realdata
def test_cifar_10_is_what_ships_under_that_name(real_data_dir):
    data, kind = problems.examples(300, problems.CIFAR, real_data_dir)
    assert kind == "CIFAR-10 images" and data["inputs"].shape == (300, 32, 32, 3)
    assert data["targets"][:5].tolist() == problems.cifar10(real_data_dir)["targets"][:5].tolist()
    assert abs(float(data["inputs"].mean())) < 0.2 and set(data["targets"].tolist()) == set(
        range(10)
    )


def test_the_gpu_suite_fits_its_limit():
    """By its own estimates, with a margin for the ceilings and the first use of the device."""
    assert sum(case.seconds for case in suites.GPU.values()) <= 60 * suites.MINUTES["gpu"] - 45
    assert list(suites.GPU) == list(suites.GPU_TOY)
    models = [c.sizes["num_models"] for c in suites.GPU.values() if c.benchmark == "ensemble"]
    assert models == [(16,), (64,), (256,)]
    assert suites.GPU["epoch, ResNet-18"].sizes["dtype"] == "bfloat16"
    assert suites.GPU["Fisher, ResNet-18"].sizes["sizes"] == {"resnet18": 50_000}
    assert suites.GPU["closed-form deletion"].sizes["against"][0][0] == 4096


@pytest.mark.slow
def test_the_gpu_suite_runs_at_toy_size(tmp_path, quickly):
    log = execution.Log(tmp_path, {**HEADER, "datasheet": {}})
    execution.run(suites.GPU_TOY, log, limit=600)
    assert [r["case"] for r in log.records if "missing" in r] == []
    assert [r["benchmark"] for r in log.records] == [
        "epoch", "fisher", "forget", "forget", "ensemble", "acu", "acu", "trak", "ensemble",
        "ensemble", "denoise", "sample",
    ]  # fmt: skip
    for r in log.records:
        assert r["compile_seconds"]["ours"] > 0 and r["flops_per_second"]["ours"] > 0
        assert r["failed"] == {} and r["case"] in (tmp_path / "table.md").read_text()
        own = r["benchmark"] in ("acu", "denoise", "sample")  # no images, or always random ones
        assert own or "random images" in r["case"]
        assert any("torch" in name for name in r["ratio"]) == (
            torch_models.available() and not r["case"].startswith("learn")
        )
    assert [r["dtype"] for r in log.records if r["dtype"] != "float32"] == [
        "bfloat16", "float64", "float64", "bfloat16", "bfloat16",
    ]  # fmt: skip
    assert all("images_per_second" in r for r in log.records[:4])
    assert all("models_per_second" in r for r in log.records if r["benchmark"] == "ensemble")
    assert len(report.figure(log.records).axes) == 2
