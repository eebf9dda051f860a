"""Layers that are fast on every backend.

XLA:CPU has fast kernels for convolutions whose axes come in its own order, and brings those of the
entry computation into that order, but not those inside `scan`/`while`. The derivatives of
`lax.conv_general_dilated` are in another order, so that a training step runs about ten times slower
inside a loop than outside. `conv_cpu` is the same convolution with derivatives that are fast there
too. GPU and TPU keep the native one. `experiments.benchmarks` measures the choice.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from unlearnjax.types import Array


def extract_patches(
    inputs: Array, kernel_size: Sequence[int], strides: Sequence[int], padding: str
) -> Array:
    """`[B, H, W, C]` to the `[B, H', W', kh * kw * C]` inputs of each output position.

    The last axis is ordered as a reshaped `[kh, kw, C, O]` kernel, so a convolution is
    `extract_patches(x, ...) @ kernel.reshape(-1, O)`.
    """
    (kh, kw), (sh, sw) = kernel_size, strides
    pads = jax.lax.padtype_to_pads(inputs.shape[1:3], (kh, kw), (sh, sw), padding)
    padded = jnp.pad(inputs, ((0, 0), *pads, (0, 0)))
    rows = (padded.shape[1] - kh) // sh + 1
    cols = (padded.shape[2] - kw) // sw + 1
    if (kh, kw) == (1, 1):
        return padded[:, ::sh, ::sw]
    windows = [
        padded[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return jnp.concatenate(windows, axis=-1)


def conv_patches(
    inputs: Array, kernel: Array, strides: Sequence[int] = (1, 1), padding: str = "SAME"
) -> Array:
    """2-D convolution as patches times matrix; NHWC, HWIO."""
    kh, kw, _, features = kernel.shape
    return extract_patches(inputs, (kh, kw), strides, padding) @ kernel.reshape(-1, features)


def conv_native(
    inputs: Array, kernel: Array, strides: Sequence[int] = (1, 1), padding: str = "SAME"
) -> Array:
    """2-D convolution by XLA's own operation; NHWC, HWIO."""
    return jax.lax.conv_general_dilated(
        inputs, kernel, tuple(strides), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def conv_cpu(
    inputs: Array, kernel: Array, strides: Sequence[int] = (1, 1), padding: str = "SAME"
) -> Array:
    """`conv_native`, with derivatives that XLA:CPU is fast at, inside loops too.

    Differentiable in both modes, as often as wanted; only what reverse mode makes of reverse mode
    is again in an order without fast kernels.
    """

    def by_inputs(tangent, kernel):
        # Transposing gives the fast order NHWC, HWIO, since it swaps the kernel's I and O.
        names = ("NHWC", "HWOI", "NHWC")
        swapped = kernel.transpose(0, 1, 3, 2)
        return jax.lax.conv_general_dilated(
            tangent, swapped, tuple(strides), padding, dimension_numbers=names
        )

    @jax.custom_jvp
    def convolve(inputs, kernel):
        return conv_native(inputs, kernel, strides, padding)

    def derivative(primals, tangents):
        (inputs, kernel), (of_inputs, of_kernel) = primals, tangents
        if isinstance(of_kernel, SymbolicZero):
            return convolve(inputs, kernel), by_inputs(of_inputs, kernel)
        # A product, whose transpose is one too; a convolution with so large a window is slower.
        tangent = conv_patches(inputs, of_kernel, strides, padding)
        if not isinstance(of_inputs, SymbolicZero):  # as those of the data are
            tangent += by_inputs(of_inputs, kernel)
        # The value must come from the function itself: under vmap, jax takes the batch axis of what
        # this returns to lie where it does there.
        return convolve(inputs, kernel), tangent

    convolve.defjvp(derivative, symbolic_zeros=True)
    return convolve(inputs, kernel)


_BY_PATCHES = contextvars.ContextVar("by_patches", default=False)


@contextlib.contextmanager
def by_patches() -> Iterator[None]:
    """For what is traced inside: convolutions on CPU as patches times matrix.

    To be put around the application of a model whose gradients are differentiated in reverse mode
    again, which `conv_cpu` is slow at.
    """
    token = _BY_PATCHES.set(True)
    try:
        yield
    finally:
        _BY_PATCHES.reset(token)


def conv(
    inputs: Array, kernel: Array, strides: Sequence[int] = (1, 1), padding: str = "SAME"
) -> Array:
    """2-D convolution, by the implementation that is fast on the platform it is compiled for.

    On CPU `conv_cpu`, inside `by_patches` `conv_patches`.

    Args:
      inputs: `[B, H, W, C]`.
      kernel: `[kh, kw, C, O]`.
      strides: window steps.
      padding: 'SAME' or 'VALID'.

    Returns:
      `[B, H', W', O]`.
    """
    on_cpu = conv_patches if _BY_PATCHES.get() else conv_cpu
    return jax.lax.platform_dependent(
        inputs,
        kernel,
        cpu=lambda x, k: on_cpu(x, k, strides, padding),
        default=lambda x, k: conv_native(x, k, strides, padding),
    )


def filter_each(inputs: Array, kernels: Array) -> Array:
    """Every image by a filter of its own, all channels alike; zeros around it, the size stays.

    Cross-correlation, as a sum of shifted images: a convolution of as many groups as there are
    images has no fast kernel. Cost: a pass over the images, from K = 5 on K of them, and K x K
    products per pixel.

    Args:
      inputs: `[B, H, W, C]`.
      kernels: `[B, K, K]`, K odd.

    Returns:
      `[B, H, W, C]`.
    """
    size, reach = kernels.shape[-1], kernels.shape[-1] // 2
    count, height, width, channels = inputs.shape
    # Pixels with their channels are one axis, long enough for a CPU's vectors.
    flat = inputs.reshape(count, height, width * channels)
    padded = jnp.pad(flat, ((0, 0), (reach, reach), (reach * channels, reach * channels)))

    def row(total, i):
        """Adds what the filters' row i makes."""
        rows = jax.lax.dynamic_slice_in_dim(padded, i, height, axis=1)
        weights = jax.lax.dynamic_index_in_dim(kernels, i, axis=1, keepdims=False)
        for j in range(size):
            weight = weights[:, j, None, None].astype(inputs.dtype)
            total += weight * rows[:, :, j * channels : (j + width) * channels]
        return total, None

    total = jnp.zeros_like(flat)
    if size > 3:  # so many terms at once would take long to compile
        total, _ = jax.lax.scan(row, total, jnp.arange(size))
    else:
        for i in range(size):
            total, _ = row(total, i)
    return total.reshape(inputs.shape)


def max_pool(inputs: Array, window: int = 2) -> Array:
    """Non-overlapping max pooling of `[B, H, W, C]`; rows and columns left over are dropped.

    By reshape, which beats `reduce_window` on CPU both forward and backward. Pool before an
    activation that grows: the result is the same, and a quarter of the work is left.
    """
    batch, height, width, channels = inputs.shape
    rows, cols = height // window, width // window
    trimmed = inputs[:, : rows * window, : cols * window]
    return trimmed.reshape(batch, rows, window, cols, window, channels).max(axis=(2, 4))


class Conv(nn.Module):
    """2-D convolution layer with the parameters of `flax.linen.Conv` (`kernel`, `bias`).

    Attributes:
      features: output channels O.
      kernel_size: `(kh, kw)`.
      strides: window steps.
      padding: 'SAME' or 'VALID'.
      use_bias: whether to add a bias.
      dtype: compute type; `None` is the inputs'. Parameters stay float32.
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: Sequence[int] = (1, 1)
    padding: str = "SAME"
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Any = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        shape = (*self.kernel_size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        inputs, kernel, bias = nn.dtypes.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        outputs = conv(inputs, kernel, self.strides, self.padding)
        return outputs if bias is None else outputs + bias
