"""Case after case within a limit of time, with everything on disk that is known so far."""

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks import report, suites, timing, torch_models
from unlearnjax.report import table


class Log:
    """What was measured, in files that are complete after every record.

    `records.jsonl` has a line of the machine and one per record, `results.json` all of it, and
    `table.md` is for readers.

    Attributes:
      records: so far.
      running: benchmark and name of the case that is being measured.
    """

    def __init__(self, workdir: Path, header: Mapping[str, Any]):
        self.workdir, self.header = workdir, header
        self.records: list[dict] = []
        self.running = ("", "")
        self._start = time.perf_counter()
        self._lock = threading.Lock()
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "records.jsonl").write_text(json.dumps(header) + "\n")
        self._write()

    def add(self, record: dict) -> None:
        """Keeps a record."""
        with self._lock:
            self.records.append(record)
            with open(self.workdir / "records.jsonl", "a") as file:
                print(json.dumps(record), file=file)
            self._write()
        elapsed = time.perf_counter() - self._start
        note = record.get("missing", "")
        text = f"{record['benchmark']}: {record['case']}" + (note and f": {note}")
        print(f"{elapsed:6.0f} s  {text}", file=sys.stderr)

    def miss(self, reason: str) -> None:
        """Keeps why there is no record of the running case."""
        benchmark, name = self.running
        self.add({"benchmark": benchmark, "case": name, "missing": reason})

    def _write(self) -> None:
        table.write_json(self.workdir / "results.json", {**self.header, "records": self.records})
        (self.workdir / "table.md").write_text(report.document(self.header, self.records))


def run(cases: Mapping[str, suites.Case], log: Log, limit: float = float("inf")) -> None:
    """Measures all cases; one that fails is noted, as is one that would not end in time.

    Args:
      limit: seconds from now. A case that needs more than what is left is left out. Where one is
        still running then, the process ends, with status 1: nothing else stops a program on a
        device.
    """
    end = time.perf_counter() + limit
    alarm = threading.Timer(min(max(limit, 0), threading.TIMEOUT_MAX), _stop, (log,))
    alarm.daemon = True
    if limit > 0:  # else all is left out
        alarm.start()
    try:
        _each(cases, log, end)
    finally:
        alarm.cancel()


def failed(records: list[dict]) -> bool:
    """Whether a case was to be measured and was not."""
    return any(r.get("missing", "").startswith("failed") for r in records)


def _each(cases: Mapping[str, suites.Case], log: Log, end: float) -> None:
    for name, case in cases.items():
        log.running = (case.benchmark, name)
        left = end - time.perf_counter()
        if left <= case.seconds:
            log.miss(
                f"left out: it takes about {case.seconds:.0f} s, {max(left, 0):.0f} s were left"
            )
            continue
        module = importlib.import_module(f"experiments.benchmarks.{case.benchmark}")
        try:
            for record in module.run(**case.sizes):
                log.add(record)
        except Exception as error:  # out of memory, most likely; the others are worth having
            log.miss(f"failed: {timing.one_line(error)}")
        torch_models.release()


def _stop(log: Log) -> None:
    log.miss("stopped: the time was up")
    sys.stderr.flush()
    os._exit(1)
