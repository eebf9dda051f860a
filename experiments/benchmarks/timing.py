"""Paired timing: alternatives take turns in one process, and the report is a ratio."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
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


class Sample(NamedTuple):
    """A call that does only a part of the work, whose time is scaled to all of it.

    Attributes:
      call: without arguments.
      share: of the work, at most 1.
    """

    call: Callable[[], Any]
    share: float

    def __call__(self) -> Any:
        return self.call()


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    elapsed = time.perf_counter() - start
    return elapsed / call.share if isinstance(call, Sample) else elapsed


def compare(
    benchmark: str,
    case: str,
    calls: Mapping[str, Callable[[], Any]],
    repeats: int = 5,
    dtype: str = "float32",
    counts: Mapping[str, int] = MappingProxyType({}),
    **axes: int,
) -> dict[str, Any]:
    """One record: median seconds of each alternative, and of each the ratio to the first.

    Every alternative runs once to warm up, then all take turns, so that a machine that changes
    speed changes it for all. A ratio is the median over rounds of `other / first`: above 1 the
    first is faster. Of every `Program` the record also has compile seconds, FLOP/s and peak bytes,
    and on CPUs bytes/s of the first; counting those means compiling once more, which takes long
    where kernels are chosen by trial. An alternative that fails while it warms up is left out, and
    `failed` says why.

    Args:
      benchmark, case: names.
      calls: the alternatives, the reference first.
      repeats: rounds.
      dtype: what most is computed in, whose peak is the ceiling.
      counts: of what there is so much in a call: `{'images': 1000}` gives `images_per_second`.
      axes: sizes of the case that are varied, e.g. `examples=1000`, for scaling curves.
    """
    first = next(iter(calls))
    failed = {}
    for name, call in calls.items():
        try:
            jax.block_until_ready(call())
        except Exception as error:  # out of memory, most likely; the others are worth having
            if name == first:
                raise
            failed[name] = one_line(error)
    calls = {name: call for name, call in calls.items() if name not in failed}
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    median = {name: statistics.median(r[name] for r in rounds) for name in calls}
    programs = {name: call for name, call in calls.items() if isinstance(call, Program)}
    on_cpu = jax.default_backend() == "cpu"
    counted = {name: call for name, call in programs.items() if name == first and on_cpu}
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
        "dtype": dtype,
        "sampled": {n: round(c.share, 6) for n, c in calls.items() if is_sampled(c)},
        "failed": failed,
        "axes": axes,
        **{
            f"{what}_per_second": {n: round(count / s, 2) for n, s in median.items()}
            for what, count in counts.items()
        },
        "compile_seconds": {n: round(p.cost.compile_seconds, 3) for n, p in programs.items()},
        "flops_per_second": {n: round(p.cost.flops / median[n]) for n, p in programs.items()},
        "bytes_per_second": {n: round(_traffic(p) / median[n]) for n, p in counted.items()},
        "peak_bytes": {n: int(p.cost.peak_bytes) for n, p in programs.items()},
    }


def host_bytes(field: str) -> int:
    """Bytes in memory of this process now (VmRSS) or at most (VmHWM), as Linux counts them.

    Not `resource.getrusage`, whose peak begins with that of the process which started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def one_line(error: Exception) -> str:
    """What went wrong, without the allocator's report that follows."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def is_sampled(call: Callable) -> bool:
    """Whether a call does less than all of the work."""
    return isinstance(call, Sample) and call.share < 1


def _traffic(program: Program) -> float:
    return audit.bytes_accessed(program.fn, *program.args)
