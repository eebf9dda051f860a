"""Ratio benchmarks, one JSON line per case.

    python -m experiments.benchmarks [--only=fisher,epoch,...]

About three minutes on 2 CPU cores. A ratio above 1 says how many times slower than the reference
the alternative is, measured in turns in this process.
"""

import json
import sys

from absl import app, flags, logging

from experiments import runner
from experiments.benchmarks import (
    analytic,
    convolution,
    drift,
    ensemble,
    epoch,
    fisher,
    search,
    trak,
)

BENCHMARKS = {
    "fisher": fisher.run,
    "epoch": epoch.run,
    "convolution": convolution.run,
    "analytic": analytic.run,
    "drift": drift.run,
    "ensemble": ensemble.run,
    "trak": trak.run,
    "search": search.run,
}

_ONLY = flags.DEFINE_list("only", list(BENCHMARKS), "Which benchmarks to run.")


def main(argv) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    unknown = sorted(set(_ONLY.value) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"error: --only must name some of {sorted(BENCHMARKS)}, got {unknown}")
    print(json.dumps({"environment": runner.environment()}))
    for name in _ONLY.value:
        for record in BENCHMARKS[name]():
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    app.run(main)
