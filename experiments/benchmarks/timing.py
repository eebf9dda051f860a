"""Paired timing: alternatives take turns in one process, and the report is a ratio."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def compare(
    benchmark: str, case: str, calls: Mapping[str, Callable[[], Any]], repeats: int = 5
) -> dict[str, Any]:
    """One record: median seconds of each alternative, and of each the ratio to the first.

    Every alternative runs once to compile, then all take turns, so that a machine that changes
    speed changes it for all. A ratio is the median over rounds of `other / first`: above 1 the
    first is faster.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    first = next(iter(calls))
    return {
        "benchmark": benchmark,
        "case": case,
        "seconds": {n: round(statistics.median(r[n] for r in rounds), 6) for n in calls},
        "reference": first,
        "ratio": {
            n: round(statistics.median(r[n] / r[first] for r in rounds), 3)
            for n in calls
            if n != first
        },
        "repeats": repeats,
    }
