"""Text encoder: a causal transformer over the tokens of a prompt, as CLIP's is.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.models import dit
from unlearnjax.types import Array


class TextEncoder(nn.Module):
    """Called as `module(tokens)` with prompts `[B, L]`, `L <= length`.

    Returns 'hidden' `[B, L, width]`, after the last norm, and 'pooled' `[B, width]`, that of each
    prompt's first token `end`; NaN of one without. As in CLIP, what fills a prompt up is attended
    like any other token, by those after it: nothing masks it. The Dense layers of queries, keys and
    values are one here.

    Attributes:
      vocabulary: number of tokens; prompts with others give NaN.
      end: the token that ends a prompt and fills it up.
      length: most tokens of a prompt.
      width: token dimension, divisible by the heads.
      depth: number of layers, `layer_0`, ...: attention, then an MLP of four times the width.
      num_heads: attention heads.
      dtype: compute type; what is returned is of at least float32.
    """

    vocabulary: int
    end: int = 1
    length: int = 12
    width: int = 64
    depth: int = 2
    num_heads: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Array, train: bool = False) -> dict[str, Array]:
        del train
        if self.width % self.num_heads:
            raise ValueError(
                f"width must be a multiple of num_heads {self.num_heads}, got {self.width}"
            )
        if tokens.ndim != 2 or tokens.shape[1] > self.length:
            raise ValueError(
                f"tokens must be [B, L], L at most {self.length}, got {list(tokens.shape)}"
            )
        rows = nn.Embed(
            self.vocabulary,
            self.width,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(0.02),
            name="tokens",
        )
        known = jnp.where(tokens < 0, self.vocabulary, tokens)  # else from the end
        places = self.param(
            "positions", nn.initializers.normal(0.01), (self.length, self.width), jnp.float32
        )
        x = rows(known)
        x = x + places[: tokens.shape[1]].astype(x.dtype)
        for i in range(self.depth):
            x = _Layer(self.num_heads, self.dtype, name=f"layer_{i}")(x)
        x = _norm(self.dtype, "norm")(x)
        hidden = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        ends = tokens == self.end
        first = jnp.argmax(ends, axis=1)[:, None, None]
        pooled = jnp.take_along_axis(hidden, first, axis=1)[:, 0]
        pooled = jnp.where(ends.any(axis=1, keepdims=True), pooled, jnp.nan)
        return {"hidden": hidden, "pooled": pooled}


class _Layer(nn.Module):
    """Attention, then an MLP, each added to what it is given the norm of."""

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = _norm(self.dtype, "attention_norm")(x)
        x = x + dit.Attention(self.num_heads, self.dtype, causal=True, name="attention")(y)
        y = _norm(self.dtype, "mlp_norm")(x)
        y = nn.gelu(nn.Dense(4 * x.shape[-1], dtype=self.dtype, name="mlp_in")(y))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_out")(y)


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)
