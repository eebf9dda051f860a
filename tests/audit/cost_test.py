import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import audit
from unlearnjax.audit import cost

A = jnp.ones((32, 32))
MATMUL = 2 * 32**3


@pytest.mark.parametrize("length", [1, 7])
def test_flops_multiply_scans_out_nested_ones_too(length):
    def once(a):
        return a @ a

    def looped(a):
        return jax.lax.scan(lambda c, _: (once(c), None), a, length=length)[0]

    def nested(a):
        return jax.lax.scan(lambda c, _: (looped(c), None), a, length=5)[0]

    assert audit.flops(once, A) == pytest.approx(MATMUL, rel=0.01)
    assert audit.flops(looped, A) == pytest.approx(length * MATMUL, rel=0.02)
    assert audit.flops(nested, A) == pytest.approx(5 * length * MATMUL, rel=0.02)
    # Also inside jit and under differentiation.
    assert audit.flops(jax.jit(nested), A) == pytest.approx(5 * length * MATMUL, rel=0.02)
    gradient = audit.flops(jax.grad(lambda a: looped(a).sum()), A)
    assert gradient == pytest.approx(3 * length * MATMUL, rel=0.05)


def test_flops_of_loops_are_those_of_the_same_steps_written_out():
    """Within jit, branches, checkpoints and each other; what is around them counts once."""
    jitted = lambda fn: jax.jit(lambda a: fn(a) @ a)
    maybe = lambda fn: lambda a: jax.lax.cond(a.sum() > 0, fn, lambda a: a + 1, a)
    again = lambda fn: lambda a: jax.checkpoint(fn)(a @ a)

    def repeat(fn, length, unroll):
        if unroll:
            return lambda a: [a := fn(a) + i for i in range(length)][-1]
        return lambda a: jax.lax.scan(lambda c, i: (fn(c) + i, i), a, jnp.arange(length))[0]

    def program(unroll, around):
        inner = repeat(lambda a: a @ a, 3, unroll)
        middle = repeat(lambda a: around(inner)(a) @ a.T, 2, unroll)
        return lambda a: (jax.jit(middle)(a) @ a, middle(2 * a).sum(), inner(a).mean())

    for around in (jitted, maybe, again):
        found, expected = (audit.flops(program(unroll, around), A) for unroll in (False, True))
        assert found == pytest.approx(expected, rel=0.01)


def test_nothing_is_lowered_more_often_than_it_is_written(monkeypatch):
    loop = lambda fn: lambda a: jax.lax.scan(lambda c, _: (fn(c), None), a, length=4)[0]
    closed = jax.make_jaxpr(loop(loop(loop(lambda a: a @ a))))(A)
    texts, lower = [], jax.stages.Traced.lower

    def lowering(traced, *args, **options):
        lowered = lower(traced, *args, **options)
        texts.append(lowered.as_text())
        return lowered

    monkeypatch.setattr(jax.stages.Traced, "lower", lowering)
    assert cost._flops(closed) == pytest.approx(64 * MATMUL, rel=0.01)
    assert sum(text.count("dot_general") for text in texts) == 1


def test_a_loop_that_never_runs_costs_nothing():
    never = lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, length=0)[0]
    assert audit.flops(never, A) < 0.01 * MATMUL


def test_compiled_functions_compute_and_their_time_is_measured():
    compiled = audit.compile_costed(lambda a, b: a @ b + 1, A, A)
    result, cost = audit.timed(compiled, A, 2 * A)
    np.testing.assert_allclose(result, 2 * 32 + 1)
    assert compiled.cost.seconds == 0 < cost.seconds
    assert cost.compile_seconds > 0
    assert cost.peak_bytes >= 3 * A.nbytes


def test_what_was_traced_before_compiles_to_the_same_at_the_same_cost():
    fn = lambda a, b: (a @ b + 1).sum()
    traced = jax.jit(fn).trace(A, A)
    start = time.perf_counter()
    compiled = audit.compile_traced(traced)
    assert 0 < compiled.cost.compile_seconds <= time.perf_counter() - start
    whole = audit.compile_costed(fn, A, A)
    assert compiled.call(A, 2 * A) == whole.call(A, 2 * A) == 32 * 32 * (2 * 32 + 1)
    assert compiled.cost._replace(compile_seconds=0) == whole.cost._replace(compile_seconds=0)
    assert compiled.cost.flops >= MATMUL


def test_flops_are_counted_for_the_cpu(monkeypatch):
    """On accelerators jax does not analyse what is lowered, and answers None."""
    analyse = jax.stages.Lowered.cost_analysis

    def on_cpu_alone(lowered):
        chosen = jax.config.jax_default_device
        return analyse(lowered) if chosen == jax.local_devices(backend="cpu")[0] else None

    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", on_cpu_alone)
    with jax.default_device(jax.devices()[3]):  # stands for an accelerator
        assert audit.flops(lambda a: a @ a, A) == MATMUL


def test_times_lie_within_the_time_that_passed():
    start = time.perf_counter()
    program = audit.compile_costed(lambda x: x @ x, jnp.ones((32, 32)))
    _, cost = audit.timed(program, jnp.ones((32, 32)))
    assert 0 < cost.compile_seconds + cost.seconds <= time.perf_counter() - start
    assert program.cost.seconds == 0 < cost.seconds


def test_what_is_held_on_the_way_counts():
    """The argument, the result and the first product."""
    cost = audit.compile_costed(lambda a: (a @ a) @ a, A).cost
    assert cost.peak_bytes >= 3 * A.nbytes


def test_what_is_returned_in_the_place_of_an_argument_counts_once():
    add = lambda x: x + 1
    plain = audit.compile_costed(add, jnp.ones(1024)).cost.peak_bytes
    donated = audit.compile_costed(add, jnp.ones(1024), donate_argnums=0).cost.peak_bytes
    assert (plain, donated) == (8192, 4096)


def test_stored_bytes_are_those_of_changed_arrays_and_of_the_memory():
    before = {
        "params": {"a": np.zeros(3, np.float32), "b": jnp.ones(5, jnp.bfloat16), "c": None},
        "frozen": {"d": np.full(2, np.nan)},
        "seed": jax.random.key(3),
    }
    copied = jax.tree.map(lambda x: x + 0 if isinstance(x, np.ndarray) else x, before)
    assert audit.stored_bytes(before, copied) == audit.stored_bytes(before, before) == 0
    of = lambda **params: {**before, "params": {**before["params"], **params}}
    one = np.array([0, 0, 1], np.float32)
    assert audit.stored_bytes(before, of(a=one)) == 12
    assert audit.stored_bytes(before, of(a=-before["params"]["a"])) == 12  # the sign of 0
    assert audit.stored_bytes(before, of(a=one.astype(np.float16))) == 6
    assert audit.stored_bytes(before, of(a=np.zeros((3, 1), np.float32))) == 12
    assert audit.stored_bytes(before, of(a=one, b=jnp.zeros(5, jnp.bfloat16), new=one)) == 34
    assert audit.stored_bytes(before, before, {"kept": one, "more": np.zeros(2)}) == 28
    other = {**before, "seed": jax.random.key(4)}
    assert audit.stored_bytes(before, other) == jax.random.key_data(other["seed"]).nbytes
