"""Paired timing: alternatives take turns in one process, and the report is a ratio."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from unlearnjax import audit, parallel


class Program(NamedTuple):
    """A compiled program with its arguments; call it without any.

    Attributes:
      fn, args: what was compiled, for what.
      call: the compiled program.
      cost: compile seconds, FLOPs, peak bytes, see `audit.Cost`.
    """

    fn: Callable
    args: tuple
    call: Callable
    cost: audit.Cost

    def __call__(self) -> Any:
        return self.call(*self.args)


def program(fn: Callable, *args: Any) -> Program:
    """Compiles `fn` for `args` (on all devices of the mesh, if one is set), and counts its work."""
    mesh = parallel.current()
    if mesh is not None:
        args = parallel.replicate(args, mesh)
    return Program(fn, args, *audit.compile_costed(fn, *args))


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def compare(
    benchmark: str,
    case: str,
    calls: Mapping[str, Callable[[], Any]],
    repeats: int = 5,
    **axes: int,
) -> dict[str, Any]:
    """One record: median seconds of each alternative, and of each the ratio to the first.

    Every alternative runs once to warm up, then all take turns, so that a machine that changes
    speed changes it for all. A ratio is the median over rounds of `other / first`: above 1 the
    first is faster. Of every `Program` the record also has compile seconds, FLOP/s and peak bytes,
    and bytes/s of the first, since counting those means compiling once more.

    Args:
      benchmark, case: names.
      calls: the alternatives, the reference first.
      repeats: rounds.
      axes: sizes of the case that are varied, e.g. `examples=1000`, for scaling curves.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    first = next(iter(calls))
    median = {name: statistics.median(r[name] for r in rounds) for name in calls}
    programs = {name: call for name, call in calls.items() if isinstance(call, Program)}
    counted = {name: call for name, call in programs.items() if name == first}
    return {
        "benchmark": benchmark,
        "case": case,
        "seconds": {name: round(value, 6) for name, value in median.items()},
        "reference": first,
        "ratio": {
            n: round(statistics.median(r[n] / r[first] for r in rounds), 3)
            for n in calls
            if n != first
        },
        "repeats": repeats,
        "axes": axes,
        "compile_seconds": {n: round(p.cost.compile_seconds, 3) for n, p in programs.items()},
        "flops_per_second": {n: round(p.cost.flops / median[n]) for n, p in programs.items()},
        "bytes_per_second": {n: round(_traffic(p) / median[n]) for n, p in counted.items()},
        "peak_bytes": {n: int(p.cost.peak_bytes) for n, p in programs.items()},
    }


def _traffic(program: Program) -> float:
    return audit.bytes_accessed(program.fn, *program.args)
