"""Diffusion transformer that reads prompts: cross-attention to the tokens of a text encoder.

Chen et al., "PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image
Synthesis", ICLR 2024.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax.models import dit, embeddings
from unlearnjax.types import Array


class TextDiT(nn.Module):
    """A text encoder and a denoiser that looks at its tokens: prompts `[B, L]` are the condition.

    Called as `module(noised, time, condition, train=...)`, see `tasks.diffusion`. Its parameters
    are 'text_encoder' and 'denoiser', so that either is trained or exchanged by its name.

    Attributes:
      text_encoder: `module(tokens)` that returns 'hidden' `[B, L, D]`, such as `TextEncoder`.
      patch_size, width, depth, num_heads, dtype: see `CrossDiT`.
    """

    text_encoder: nn.Module
    patch_size: int = 2
    width: int = 96
    depth: int = 4
    num_heads: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(
        self, noised: Array, time: Array, condition: Array, train: bool = False
    ) -> dict[str, Array]:
        hidden = self.text_encoder(condition, train=train)["hidden"]
        own = self.patch_size, self.width, self.depth, self.num_heads, self.dtype
        return CrossDiT(*own, name="denoiser")(noised, time, hidden, train=train)

    def attention_names(self) -> tuple[str, ...]:
        """Names of the maps of cross-attention `[B, num_heads, tokens of the image, L]`.

        For `tasks.capture` and `tasks.edit`: layers of their own, they cost nothing unless named.
        """
        return tuple(f"denoiser.block_{i}.cross.weights" for i in range(self.depth))


class CrossDiT(nn.Module):
    """A transformer over patches of a noised image that looks at a text.

    Called as `module(noised, time, text)` with the text `[B, L, D]`, all of whose tokens are
    attended. Time is told by one modulation for all blocks, `modulation`, to which each adds a
    table of its own. It starts as the constant 0: nothing is drawn, and text adds nothing.

    As published, but for: the text enters as it is, without an MLP before it; nothing masks the
    tokens that fill it up, and queries, keys and values of cross-attention have no bias, as in
    Stable Diffusion, so that keys and values are linear in the text; kernels but that of the
    modulation and those that are 0 start as Flax has them.

    Attributes:
      patch_size: side of the square patches; must divide the image.
      width: token dimension, divisible by 4 and by the heads.
      depth: number of blocks: self-attention, cross-attention, MLP.
      num_heads: of either attention.
      dtype: compute type (`jnp.bfloat16` for mixed precision); predictions are float32, or float64
        where the images are.
    """

    patch_size: int = 2
    width: int = 96
    depth: int = 4
    num_heads: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(
        self, noised: Array, time: Array, text: Array, train: bool = False
    ) -> dict[str, Array]:
        del train
        dit.validate_width(self.width, self.num_heads)
        dense = lambda features, name, **given: nn.Dense(
            features, dtype=self.dtype, name=name, **given
        )
        x = dense(self.width, "patches")(dit.patches(noised, self.patch_size))
        x = x + dit.positions(noised, self.patch_size, self.width).astype(x.dtype)
        told = nn.silu(dense(self.width, "time_in")(embeddings.waves(time, self.width)))
        told = dense(self.width, "time_out")(told)
        small = nn.initializers.normal(0.02)
        shared = dense(6 * self.width, "modulation", kernel_init=small)(nn.silu(told))
        shared = shared.reshape(-1, 6, self.width)
        for i in range(self.depth):
            x = _Block(self.num_heads, self.dtype, name=f"block_{i}")(x, shared, text)
        shift, scale = _told(self, 2, told[:, None])
        x = dit.normed(x, self.dtype) * (1 + scale) + shift
        pixels = self.patch_size**2 * noised.shape[-1]
        x = dense(pixels, "pixels", kernel_init=nn.initializers.zeros_init())(x)
        return {"prediction": dit.assembled(x, noised, self.patch_size)}


class _Block(nn.Module):
    """Attention and MLP as in `dit`; between them, not modulated, a look at the text."""

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, shared: Array, text: Array) -> Array:
        width = x.shape[-1]
        parts = _told(self, 6, shared)
        shift, scale, gate = parts[:3]
        y = dit.normed(x, self.dtype) * (1 + scale) + shift
        x = x + gate * dit.Attention(self.num_heads, self.dtype, name="attention")(y)
        x = x + CrossAttention(self.num_heads, self.dtype, name="cross")(x, text)
        shift, scale, gate = parts[3:]
        y = dit.normed(x, self.dtype) * (1 + scale) + shift
        y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype, name="mlp_in")(y))
        return x + gate * nn.Dense(width, dtype=self.dtype, name="mlp_out")(y)


class CrossAttention(nn.Module):
    """What tokens `[B, N, W]` find in a text `[B, L, D]`: `[B, N, W]`, which starts as 0.

    Layers `query`, `key`, `value`, `out`, and `weights`, which returns `[B, num_heads, N, L]`.
    """

    num_heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, text: Array) -> Array:
        width = x.shape[-1]

        def heads(name: str, of: Array) -> Array:
            dense = nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)
            return dense(of).reshape(*of.shape[:2], self.num_heads, width // self.num_heads)

        query, key, value = heads("query", x), heads("key", text), heads("value", text)
        scores = jnp.einsum("bnhd,blhd->bhnl", query, key) / jnp.sqrt(query.shape[-1])
        weights = _Softmax(name="weights")(scores).astype(value.dtype)
        y = jnp.einsum("bhnl,blhd->bnhd", weights, value).reshape(x.shape)
        zeros = nn.initializers.zeros_init()
        return nn.Dense(width, kernel_init=zeros, dtype=self.dtype, name="out")(y)


class _Softmax(nn.Module):
    """Over the last axis, in float32 or wider: a layer, so that its output has a name."""

    @nn.compact
    def __call__(self, scores: Array) -> Array:
        return jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))


def _told(module: nn.Module, number: int, shared: Array) -> list[Array]:
    """`number` of `[B, 1, W]`: what is shared `[B, number or 1, W]` plus the module's own table."""
    width = shared.shape[-1]
    init = nn.initializers.normal(width**-0.5)
    table = module.param("table", init, (number, width), jnp.float32)
    return jnp.split(shared + table.astype(shared.dtype), number, axis=1)
