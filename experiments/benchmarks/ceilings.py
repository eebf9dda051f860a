"""What this machine can do at most: a large matrix product and a large copy."""

import statistics
from functools import partial

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing


def measure(width: int = 3072, megabytes: int = 256, repeats: int = 5) -> dict[str, float]:
    """`{'flops_per_second': ..., 'float64_flops_per_second': ..., 'bytes_per_second': ...}`."""
    result = {}
    dtypes = {"": jnp.float32}
    if jax.default_backend() == "cpu":  # accelerators emulate it
        dtypes["float64_"] = jnp.float64
    with jax.enable_x64(True):
        for prefix, dtype in dtypes.items():
            matrix = jnp.ones((width, width), dtype)
            product = partial(jax.jit(jnp.matmul), matrix, matrix)
            result[f"{prefix}flops_per_second"] = 2 * width**3 / _median(product, repeats)
    block = jnp.ones(megabytes * 2**20 // 4, jnp.float32)
    copy = partial(jax.jit(lambda x: x + 1), block)
    result["bytes_per_second"] = 2 * block.nbytes / _median(copy, repeats)
    return result


def _median(call, repeats: int) -> float:
    timing.seconds(call)
    return statistics.median(timing.seconds(call) for _ in range(repeats))
