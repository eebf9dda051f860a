"""What a computation costs: seconds, floating-point operations, memory."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from unlearnjax import trees
from unlearnjax.types import PyTree

CALLS = ("jit", "pjit")  # names of one primitive


class Cost(NamedTuple):
    """Cost of one call of a compiled function.

    Attributes:
      seconds: wall time after compilation.
      compile_seconds: wall time of tracing and compiling.
      flops: floating-point operations, see `flops`.
      peak_bytes: arguments, outputs and temporary buffers of the compiled program on one device.
    """

    seconds: float
    compile_seconds: float
    flops: float
    peak_bytes: float


class Compiled(NamedTuple):
    """A compiled function with what is known of its cost before it runs (`seconds` is 0)."""

    call: Callable
    cost: Cost


def compile_costed(fn: Callable, *args: Any, **options: Any) -> Compiled:
    """Compiles `fn` for the shapes and shardings of `args`; `options` are those of `jax.jit`.

    Examples:
      >>> program = compile_costed(lambda x: x @ x, jnp.ones((64, 64)))
      >>> result, cost = timed(program, jnp.ones((64, 64)))
      >>> cost.flops, cost.seconds > 0
      (524288.0, True)
    """
    start = time.perf_counter()
    traced = jax.jit(fn, **options).trace(*args)
    tracing = time.perf_counter() - start
    call, cost = compile_traced(traced)
    return Compiled(call, cost._replace(compile_seconds=tracing + cost.compile_seconds))


def compile_traced(traced: jax.stages.Traced) -> Compiled:
    """As `compile_costed`, of what `jax.jit(fn).trace(*args)` gave; its time is not counted."""
    start = time.perf_counter()
    compiled = traced.lower().compile()
    compile_seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return Compiled(compiled, Cost(0.0, compile_seconds, _flops(traced.jaxpr), float(peak)))


def timed(compiled: Compiled, *args: Any) -> tuple[Any, Cost]:
    """Runs it once, waiting for the result."""
    jax.block_until_ready(args)
    start = time.perf_counter()
    result = jax.block_until_ready(compiled.call(*args))
    return result, compiled.cost._replace(seconds=time.perf_counter() - start)


def stored_bytes(before: PyTree, after: PyTree, memory: PyTree = ()) -> int:
    """Bytes that an unlearned model needs beside the one from before: its changed arrays alone.

    An array is kept whole if any bit of it has changed, or if there was none of its name.

    Args:
      before, after: variables, not traced.
      memory: what the method keeps for the next request, which counts in full.

    Examples:
      >>> import jax.numpy as jnp
      >>> before = {"a": jnp.zeros(3), "b": jnp.zeros(5)}
      >>> stored_bytes(before, {**before, "a": jnp.array([0, 0, 1.0])})
      12
    """
    known = dict(zip(trees.names(before), jax.tree.leaves(before), strict=True))
    leaves = zip(trees.names(after), jax.tree.leaves(after), strict=True)
    changed = [leaf for name, leaf in leaves if name not in known or not _same(known[name], leaf)]
    return trees.nbytes((changed, memory))


def flops(fn: Callable, *args: Any) -> float:
    """Floating-point operations of one call, by XLA's cost analysis, loops multiplied out.

    XLA counts the body of a loop once, whatever its length. Each `scan` is therefore analysed by
    itself and counted as often as it runs; a `while` loop of unknown length still counts once.
    What is counted is the program as lowered for a CPU, wherever it runs.

    Examples:
      >>> a = jnp.ones((8, 8))
      >>> flops(lambda a: a @ a, a)  # 8 x 8 sums of 8 products
      1024.0
      >>> flops(lambda a: jax.lax.scan(lambda x, _: (x @ a, None), a, length=10)[0], a) // 1024
      10.0
    """
    return _flops(jax.make_jaxpr(fn)(*args))


def bytes_accessed(fn: Callable, *args: Any) -> float:
    """Bytes that one call reads and writes, loops multiplied out as in `flops`.

    Of the optimised program: what XLA fuses away does not count. Compiles every loop body.
    """
    analyse = lambda lowered: (lowered.compile().cost_analysis() or {}).get("bytes accessed", 0.0)
    closed = jax.make_jaxpr(fn)(*args)
    return _once(closed, analyse) + _repeated(closed.jaxpr, analyse)


def _flops(program: core.ClosedJaxpr) -> float:
    with _on_cpu():
        return _counted(program)


def _on_cpu() -> contextlib.AbstractContextManager:
    """For what is lowered inside: before it is compiled, only the CPU's backend analyses it."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return contextlib.nullcontext()


def _counted(closed: core.ClosedJaxpr) -> float:
    """Operations, loops multiplied out.

    Loops are counted by themselves and left out of what is around them, so that nothing is lowered
    more often than it is written, however deep it lies.
    """
    analyse = lambda lowered: (lowered.cost_analysis() or {}).get("flops", 0.0)
    total, kept = 0.0, []
    for eqn in closed.jaxpr.eqns:
        if eqn.primitive.name == "scan":
            body, length = eqn.params["jaxpr"], eqn.params["length"]
            total += length * _counted(body) if length else 0.0
        elif eqn.primitive.name in CALLS and any(_scans(eqn)):
            total += _counted(eqn.params["jaxpr"])
        else:
            # In branches, say, loops are counted where they stand, and their further passes added.
            total += _further(_scans(eqn), analyse)
            kept.append(eqn)
    return total + _once(_without(closed, kept), analyse)


def _once(closed: core.ClosedJaxpr, analyse: Callable) -> float:
    """What `analyse` finds as XLA counts: one pass of every loop."""
    avals = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in closed.in_avals]
    # The program's types are settled; parts of it may be in float64.
    with jax.enable_x64(True):
        return float(analyse(jax.jit(core.jaxpr_as_fun(closed)).lower(*avals)))


def _without(closed: core.ClosedJaxpr, kept: Sequence[core.JaxprEqn]) -> core.ClosedJaxpr:
    """Some of its equations; what the others compute is taken, what they read returned."""
    jaxpr, names = closed.jaxpr, {id(eqn) for eqn in kept}
    apart = [eqn for eqn in jaxpr.eqns if id(eqn) not in names]
    given = [result for eqn in apart for result in eqn.outvars]
    read = [atom for eqn in apart for atom in eqn.invars if not isinstance(atom, core.Literal)]
    invars, outvars = [*jaxpr.invars, *given], [*jaxpr.outvars, *read]
    program = jaxpr.replace(eqns=list(kept), invars=invars, outvars=outvars)
    return core.ClosedJaxpr(program, closed.consts)


def _further(scans: Iterable, analyse: Callable) -> float:
    """What the further passes of scans add."""
    more = 0.0
    for body, length in scans:
        more += length * _repeated(body.jaxpr, analyse)
        if length != 1:
            more += (length - 1) * _once(body, analyse)
    return more


def _repeated(jaxpr: core.Jaxpr, analyse: Callable) -> float:
    """What the further passes of a program's scans add."""
    return sum(_further(_scans(eqn), analyse) for eqn in jaxpr.eqns)


def _scans(eqn: core.JaxprEqn) -> Iterator[tuple[core.ClosedJaxpr, int]]:
    """The outermost scans of an equation: (body, length)."""
    if eqn.primitive.name == "scan":
        yield eqn.params["jaxpr"], eqn.params["length"]
        return
    for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(value):
            for own in getattr(value, "jaxpr", value).eqns:
                yield from _scans(own)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.ClosedJaxpr | core.Jaxpr)


def _same(one: Any, other: Any) -> bool:
    """Whether two arrays are alike in shape, type and every bit, NaN and signs of 0, too."""
    if one is other:
        return True
    ours, theirs = (
        np.asarray(jax.random.key_data(leaf) if trees.is_key(leaf) else leaf)
        for leaf in (one, other)
    )
    alike = ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return alike and ours.tobytes() == theirs.tobytes()
