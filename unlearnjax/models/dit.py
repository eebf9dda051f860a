"""Diffusion transformer.

Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax.models import embeddings
from unlearnjax.types import Array


class DiT(nn.Module):
    """A transformer over patches of a noised image, of which time and condition are told by adaLN.

    Called as `module(noised, time, condition, train=...)`, see `tasks.diffusion`. It starts as the
    constant 0, its blocks as the identity (adaLN-zero). Two ways the paper's models are larger:
    patches of latents, and width 384 to 1152 at depth 12 to 28.

    Attributes:
      num_classes: conditions 0 .. num_classes - 1; one more, the number itself, says nothing.
      patch_size: side of the square patches; must divide the image.
      width: token dimension, divisible by 4 and by the heads.
      depth: number of blocks.
      num_heads: attention heads.
      dtype: compute type (`jnp.bfloat16` for mixed precision); predictions are float32, or float64
        where the images are.
    """

    num_classes: int
    patch_size: int = 2
    width: int = 96
    depth: int = 4
    num_heads: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(
        self, noised: Array, time: Array, condition: Array, train: bool = False
    ) -> dict[str, Array]:
        del train
        validate_width(self.width, self.num_heads)
        x = nn.Dense(self.width, dtype=self.dtype, name="patches")(patches(noised, self.patch_size))
        x = x + positions(noised, self.patch_size, self.width).astype(x.dtype)
        told = nn.Dense(self.width, dtype=self.dtype, name="time_in")(
            embeddings.waves(time, self.width)
        )
        told = nn.Dense(self.width, dtype=self.dtype, name="time_out")(nn.silu(told))
        table = embeddings.Classes(self.num_classes, self.width, dtype=self.dtype, name="classes")
        told = nn.silu(told + table(condition))
        for i in range(self.depth):
            x = _Block(self.num_heads, self.dtype, name=f"block_{i}")(x, told)
        shift, scale = jnp.split(_modulation(2 * self.width, self.dtype)(told), 2, axis=-1)
        x = normed(x, self.dtype) * (1 + scale) + shift
        zeros = nn.initializers.zeros_init()
        pixels = self.patch_size**2 * noised.shape[-1]
        x = nn.Dense(pixels, kernel_init=zeros, dtype=self.dtype, name="pixels")(x)
        return {"prediction": assembled(x, noised, self.patch_size)}


class _Block(nn.Module):
    """Attention and MLP, each scaled and shifted before and gated after by what it is told."""

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, told: Array) -> Array:
        width = x.shape[-1]
        parts = jnp.split(_modulation(6 * width, self.dtype)(told), 6, axis=-1)
        shift, scale, gate = parts[:3]
        y = normed(x, self.dtype) * (1 + scale) + shift
        x = x + gate * Attention(self.num_heads, self.dtype, name="attention")(y)
        shift, scale, gate = parts[3:]
        y = normed(x, self.dtype) * (1 + scale) + shift
        y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype, name="mlp_in")(y))
        return x + gate * nn.Dense(width, dtype=self.dtype, name="mlp_out")(y)


class Attention(nn.Module):
    """Self-attention of tokens `[B, L, D]`; queries, keys and values are one product.

    Attributes:
      num_heads: must divide the width.
      dtype: compute type.
      causal: whether a token sees itself and those before it alone.
    """

    num_heads: int
    dtype: Any = None
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        parts = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        heads = parts.reshape(*x.shape[:-1], 3, self.num_heads, width // self.num_heads)
        query, key, value = jnp.moveaxis(heads, -3, 0)
        y = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        return nn.Dense(width, dtype=self.dtype, name="out")(y.reshape(x.shape))


def validate_width(width: int, num_heads: int) -> None:
    """Raises `ValueError` for a width that positions or heads do not divide."""
    if width % 4 or width % num_heads:
        raise ValueError(f"width must be a multiple of 4 and of num_heads {num_heads}, got {width}")


def patches(images: Array, side: int) -> Array:
    """`[B, rows * cols, side * side * C]`: square patches of images, row by row.

    Raises:
      ValueError: for a side that does not divide them.
    """
    batch, height, width, channels = images.shape
    if height % side or width % side:
        raise ValueError(f"patch_size must divide the image {(height, width)}, got {side}")
    rows, cols = height // side, width // side
    x = images.reshape(batch, rows, side, cols, side, channels).swapaxes(2, 3)
    return x.reshape(batch, rows * cols, side * side * channels)


def assembled(x: Array, images: Array, side: int) -> Array:
    """The images of which `x` are the patches, shaped as `images` and of their precision."""
    batch, height, width, channels = images.shape
    x = x.reshape(batch, height // side, width // side, side, side, channels).swapaxes(2, 3)
    return x.reshape(images.shape).astype(jnp.promote_types(images.dtype, jnp.float32))


def positions(images: Array, side: int, width: int) -> Array:
    """`[rows * cols, width]` of the patches, see `embeddings.grid_positions`."""
    return embeddings.grid_positions(images.shape[1] // side, images.shape[2] // side, width)


def normed(x: Array, dtype: Any) -> Array:
    """Layer norm without parameters."""
    return nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)(x)


def _modulation(features: int, dtype: Any) -> Callable[[Array], Array]:
    """`[B, width]` of what is told to `[B, 1, features]`; starts at zero."""
    zeros = nn.initializers.zeros_init()
    dense = nn.Dense(features, kernel_init=zeros, dtype=dtype, name="modulation")
    return lambda told: dense(told)[:, None]
