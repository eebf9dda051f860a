"""Every hot path, timed: warm and cold, against ceilings of the machine and against references.

    python -m experiments.benchmarks --suite=quick|full [--only=fisher,training,...]

`quick` takes under two minutes on 2 CPU cores, `full` under twenty. PyTorch's part is there where
torch is installed (`pip install torch`). Writes `records.jsonl`, `table.md` and `plot.png` to
`--workdir`. A ratio above 1 says how many times slower than ours the alternative is, measured in
turns in this process.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import jax
from absl import app, flags, logging

from experiments import runner
from experiments.benchmarks import ceilings, report, suites, torch_reference
from unlearnjax.report import html

_SUITE = flags.DEFINE_enum("suite", "quick", ["quick", "full"], "How much is measured.")
_ONLY = flags.DEFINE_list("only", [], "Which benchmarks of the suite to run; default all.")
_DEVICES = flags.DEFINE_integer("fake_devices", 0, "So many CPU devices, for curves over devices.")


def main(argv) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    if _DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    suite = suites.SUITES[_SUITE.value]
    unknown = sorted(set(_ONLY.value) - set(suite))
    if unknown:
        sys.exit(f"error: --only must name some of {sorted(suite)}, got {unknown}")
    workdir = Path(flags.FLAGS.workdir or "runs/benchmarks")
    workdir.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    machine = runner.environment() | {"torch": torch_reference.version(), "cpu": runner.cpu()}
    top = ceilings.measure()
    records = []
    with open(workdir / "records.jsonl", "w") as file:

        def write(record):
            print(json.dumps(record), file=file, flush=True)

        write({"suite": _SUITE.value, "environment": machine, "ceilings": top})
        for name, sizes in suite.items():
            if _ONLY.value and name not in _ONLY.value:
                continue
            module = importlib.import_module(f"experiments.benchmarks.{name}")
            for record in module.run(**sizes):
                elapsed = time.perf_counter() - start
                print(f"{elapsed:6.0f} s  {record['benchmark']}: {record['case']}", file=sys.stderr)
                records.append(record)
                write(record)
    text = report.markdown(records, top)
    (workdir / "table.md").write_text(text)
    (workdir / "plot.png").write_bytes(html.figure_png(report.figure(records)))
    print(text)
    print(", ".join(f"{name}: {value:.3g}" for name, value in top.items()))
    for line in report.missed(records):
        print("missed:", line)
    print(f"{time.perf_counter() - start:.0f} s; table, records and plot: {workdir}")


if __name__ == "__main__":
    app.run(main)
