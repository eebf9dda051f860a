"""What this machine can do at most: a large matrix product, a large copy, and its datasheet."""

import re
import statistics
from functools import partial

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing

# Dense matrix products per second by the maker's datasheet, by a part of jax's `device_kind`, the
# first that fits. NVIDIA's sheets give those of tensor cores with 2:4 sparsity, twice of this.
# float32 is what jax computes it in by default: TF32 on GPUs that have it, bfloat16 on TPUs.
_HOPPER = {"bfloat16": 989.4e12, "float32": 494.7e12, "float64": 66.9e12}  # SXM
DATASHEETS = {
    # nvidia.com/en-us/data-center: h100, h200, a100, l4, l40s, tesla-t4
    "H100 PCIe": {"bfloat16": 756e12, "float32": 378e12, "float64": 51e12},
    "H100 NVL": {"bfloat16": 835e12, "float32": 417e12, "float64": 60e12},
    "H100 80GB HBM3": _HOPPER,
    "H200 NVL": {"bfloat16": 835e12, "float32": 417e12, "float64": 60e12},
    "H200": _HOPPER,
    "A100": {"bfloat16": 312e12, "float32": 156e12, "float64": 19.5e12},
    "L40S": {"bfloat16": 362e12, "float32": 183e12},
    "NVIDIA L4": {"bfloat16": 121e12, "float32": 60e12},
    "Tesla T4": {"float16": 65e12, "float32": 8.1e12},
    # cloud.google.com/tpu/docs: v4, v5e, v5p, v6e
    "TPU v4": {"bfloat16": 275e12, "float32": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12, "float32": 197e12},
    "TPU v5": {"bfloat16": 459e12, "float32": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12, "float32": 918e12},
}


def datasheet(kind: str) -> dict[str, float]:
    """`{dtype: FLOP/s}` of the device `kind`, empty where it is not known, or only a part of it."""
    if "MIG" in kind:
        return {}
    found = (peaks for name, peaks in DATASHEETS.items() if re.search(rf"{name}\b", kind))
    return next(found, {})


def measure(width: int | None = None, megabytes: int = 256, repeats: int = 5) -> dict[str, float]:
    """`{'flops_per_second': ..., 'float64_flops_per_second': ..., 'bytes_per_second': ...}`.

    On accelerators also 'bfloat16_flops_per_second'; not of what a backend only emulates.

    Args:
      width: of the square matrices; by default what keeps the backend busy.
    """
    backend = jax.default_backend()
    large = width or (3072 if backend == "cpu" else 8192)
    widths = {"": (large, jnp.float32)}
    if backend != "cpu":
        widths["bfloat16_"] = (large, jnp.bfloat16)
    if backend != "tpu":  # smaller, since most GPUs are slow at it
        widths["float64_"] = (width or 3072, jnp.float64)
    result = {}
    with jax.enable_x64(True):
        for prefix, (size, dtype) in widths.items():
            # Random, since multipliers of ones and zeros need less power.
            matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
            product = partial(jax.jit(jnp.matmul), matrix, matrix)
            result[f"{prefix}flops_per_second"] = 2 * size**3 / _median(product, repeats)
    block = jnp.ones(megabytes * 2**20 // 4, jnp.float32)
    copy = partial(jax.jit(lambda x: x + 1), block)
    result["bytes_per_second"] = 2 * block.nbytes / _median(copy, repeats)
    return result


def _median(call, repeats: int) -> float:
    timing.seconds(call)
    return statistics.median(timing.seconds(call) for _ in range(repeats))
