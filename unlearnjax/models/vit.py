"""Vision transformer. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.models import layers
from unlearnjax.types import Array


class ViT(nn.Module):
    """Pre-norm transformer over image patches with mean pooling; the defaults are ViT-Ti sized.

    Attributes:
      num_classes: C.
      patch_size: side of the square patches; must divide the image.
      width: token dimension.
      depth: number of blocks.
      num_heads: attention heads.
      dropout: rate after attention and in the MLP, at training time only.
      dtype: compute type (`jnp.bfloat16` for mixed precision); logits are float32.
    """

    num_classes: int
    patch_size: int = 4
    width: int = 192
    depth: int = 12
    num_heads: int = 3
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> dict[str, Array]:
        if inputs.shape[1] % self.patch_size or inputs.shape[2] % self.patch_size:
            raise ValueError(
                f"patch_size must divide the image {inputs.shape[1:3]}, got {self.patch_size}"
            )
        patch = (self.patch_size, self.patch_size)
        x = layers.Conv(self.width, patch, patch, "VALID", dtype=self.dtype)(inputs)
        x = x.reshape(x.shape[0], -1, self.width)
        x = _AddPositions(name="positions")(x)
        for _ in range(self.depth):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            y = nn.MultiHeadDotProductAttention(
                self.num_heads,
                dtype=self.dtype,
                dropout_rate=self.dropout,
                deterministic=not train,
            )(y, y)
            x = x + y
            y = nn.LayerNorm(dtype=self.dtype)(x)
            y = nn.gelu(nn.Dense(4 * self.width, dtype=self.dtype)(y))
            y = nn.Dense(self.width, dtype=self.dtype)(y)
            x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        x = nn.LayerNorm(dtype=self.dtype)(x).mean(axis=1)
        logits = nn.Dense(self.num_classes, dtype=self.dtype)(x)
        return {"logits": logits.astype(jnp.float32), "features": x.astype(jnp.float32)}


class _AddPositions(nn.Module):
    """Learned positions."""

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        embedding = self.param(
            "embedding", nn.initializers.normal(0.02), (1, *tokens.shape[1:]), jnp.float32
        )
        return tokens + embedding.astype(tokens.dtype)
