"""Every hot path, timed: warm and cold, against ceilings of the machine and against references.

    python -m experiments.benchmarks --suite=quick|full|gpu|gpu_toy [--only=fisher,training,...]

`quick` takes under two minutes on 2 CPU cores, `full` under twenty, `gpu` at most ten on one
GPU of today's size, whoever looks or not; `gpu_toy` is its dry run on any CPU. PyTorch's part is
there where torch is installed (`pip install torch`), on a GPU with CUDA. `gpu` takes CIFAR-10 from
`--data_dir`, and random images of its size without. Writes `records.jsonl`, `results.json` and
`table.md` after every case, and `plot.png` at the end, to `--workdir`. A ratio above 1 says how
many times slower than ours the alternative is, measured in turns in this process.
"""

import os
import sys
import time
from pathlib import Path

import jax
from absl import app, flags, logging

from experiments.benchmarks import ceilings, execution, problems, report, suites, torch_models
from experiments.common import runner
from unlearnjax.report import html

_SUITE = flags.DEFINE_enum("suite", "quick", list(suites.SUITES), "What is measured.")
_ONLY = flags.DEFINE_list("only", [], "Which benchmarks of the suite to run; default all.")
_MINUTES = flags.DEFINE_float(
    "minutes", None, "Wall time it may take; default 8 for gpu, else any.", lower_bound=0.5
)
_DEVICES = flags.DEFINE_integer("fake_devices", 0, "So many CPU devices, for curves over devices.")

_AROUND = 15.0  # seconds for what comes before `main`, and for the figure after it


def main(argv) -> None:
    start = time.perf_counter()
    del argv
    logging.set_verbosity(logging.ERROR)
    if _DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    # Before jax takes three quarters of the GPU: PyTorch needs more than what that leaves.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    name, data_dir = _SUITE.value, flags.FLAGS.data_dir
    try:
        cases = chosen(name, _ONLY.value, data_dir)
    except ValueError as error:
        sys.exit(f"error: {error}")
    workdir = Path(flags.FLAGS.workdir or "runs/benchmarks")
    torch_models.configure()
    machine = runner.environment() | {"torch": torch_models.version(), "cpu": runner.cpu()}
    header = {
        "suite": name,
        "environment": machine,
        "ceilings": ceilings.measure(),
        "datasheet": ceilings.datasheet(machine["device"]),
    }
    log = execution.Log(workdir, header)
    minutes = _MINUTES.value or suites.MINUTES.get(name, float("inf"))
    execution.run(cases, log, 60 * minutes - _AROUND - (time.perf_counter() - start))
    (workdir / "plot.png").write_bytes(html.figure_png(report.figure(log.records)))
    print(report.document(header, log.records))
    for line in report.missed(log.records):
        print("missed:", line)
    print(f"{time.perf_counter() - start:.0f} s; table, records and plot: {workdir}")
    if execution.failed(log.records):
        sys.exit(1)


def chosen(name: str, only: list[str], data_dir: str | None) -> dict[str, suites.Case]:
    """The cases of the suite `name` that belong to the benchmarks `only`, or all.

    Raises:
      ValueError: for an unknown benchmark, a suite that this machine is not for, or a directory
        without CIFAR-10.
    """
    suite = suites.SUITES[name]
    known = sorted({case.benchmark for case in suite.values()})
    if unknown := sorted(set(only) - set(known)):
        raise ValueError(f"--only must name some of {known}, got {unknown}")
    if name == "gpu" and jax.default_backend() == "cpu":
        raise ValueError("--suite=gpu needs a GPU or a TPU; --suite=gpu_toy is its dry run")
    cases = {n: case for n, case in suite.items() if not only or case.benchmark in only}
    if data_dir and any("source" in case.sizes for case in cases.values()):
        problems.cifar10(data_dir)
        for n, case in cases.items():
            if "source" in case.sizes:
                cases[n] = case._replace(sizes={**case.sizes, "source": data_dir})
    return cases


if __name__ == "__main__":
    app.run(main)
