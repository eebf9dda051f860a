"""Vision transformer. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.models import layers
from unlearnjax.types import Array


class ViT(nn.Module):
    """Pre-norm transformer over image patches; the defaults are ViT-Ti sized.

    Those of `models.BY_NAME` but `vit_tiny` are as published: patches of 16, a class token, exact
    GELU; `pretrained.vit` reads their weights.

    Attributes:
      num_classes: C.
      patch_size: side of the square patches; must divide the image.
      width: token dimension.
      depth: number of blocks.
      num_heads: attention heads.
      dropout: rate after attention and in the MLP, at training time only.
      pool: 'mean' of the tokens, or 'cls', a further token that gathers what the head reads.
      exact_gelu: the normal distribution's function itself, not the approximation by a tanh.
      norm_eps: what layer norms add to the variance.
      image_size: side that images are resized to (bilinear), in the model; 0 leaves them.
      dtype: compute type (`jnp.bfloat16` for mixed precision); logits are float32.
    """

    num_classes: int
    patch_size: int = 4
    width: int = 192
    depth: int = 12
    num_heads: int = 3
    dropout: float = 0.0
    pool: str = "mean"
    exact_gelu: bool = False
    norm_eps: float = 1e-6
    image_size: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> dict[str, Array]:
        checks.one_of(pool=(self.pool, ("mean", "cls")))
        if self.image_size:
            size = (inputs.shape[0], self.image_size, self.image_size, inputs.shape[3])
            inputs = jax.image.resize(inputs, size, "bilinear")
        if inputs.shape[1] % self.patch_size or inputs.shape[2] % self.patch_size:
            raise ValueError(
                f"patch_size must divide the image {inputs.shape[1:3]}, got {self.patch_size}"
            )
        patch = (self.patch_size, self.patch_size)
        x = layers.Conv(self.width, patch, patch, "VALID", dtype=self.dtype)(inputs)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.pool == "cls":
            token = self.param("cls", nn.initializers.zeros_init(), (1, 1, self.width))
            token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        x = _AddPositions(name="positions")(x)
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
        for _ in range(self.depth):
            y = norm()(x)
            y = nn.MultiHeadDotProductAttention(
                self.num_heads,
                dtype=self.dtype,
                dropout_rate=self.dropout,
                deterministic=not train,
            )(y, y)
            x = x + y
            y = norm()(x)
            y = nn.Dense(4 * self.width, dtype=self.dtype)(y)
            y = nn.gelu(y, approximate=not self.exact_gelu)
            y = nn.Dense(self.width, dtype=self.dtype)(y)
            x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        x = norm()(x)
        x = x[:, 0] if self.pool == "cls" else x.mean(axis=1)
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
