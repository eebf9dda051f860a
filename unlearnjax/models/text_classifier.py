"""Small classifier of sentences."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.types import Array


class TextClassifier(nn.Module):
    """Called as `module(tokens)` with `[B, T]`, padded with 0: the mean of what words become.

    Without layers, words are their embeddings, in any order; each layer is attention and an MLP of
    four times the width, after norms, with learned positions. Padding is seen by nothing. The
    embeddings are the parameter `words.embedding` `[vocabulary, width]`.

    Attributes:
      num_classes: C.
      vocabulary: V; tokens lie in [0, V).
      width: of the embeddings.
      depth: number of layers.
      num_heads: of attention; divides the width.
      hidden: width of the dense layer, whose outputs are 'features'.
      length: most tokens of a sentence, where there are positions.
      dtype: compute type; logits are float32.
    """

    num_classes: int
    vocabulary: int = 5000
    width: int = 64
    depth: int = 0
    num_heads: int = 4
    hidden: int = 64
    length: int = 40
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Array, train: bool = False) -> dict[str, Array]:
        del train
        if tokens.ndim != 2 or (self.depth and tokens.shape[1] > self.length):
            raise ValueError(
                f"tokens must be [B, T], T at most {self.length}, got {list(tokens.shape)}"
            )
        near = nn.initializers.normal(0.1)
        x = nn.Embed(
            self.vocabulary, self.width, dtype=self.dtype, embedding_init=near, name="words"
        )(tokens)
        seen = tokens != 0
        if self.depth:
            places = self.param("positions", near, (self.length, self.width))
            x += places[: tokens.shape[1]].astype(x.dtype)
        for _ in range(self.depth):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            mask = nn.make_attention_mask(jnp.ones_like(seen), seen)
            x += nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype)(y, mask=mask)
            y = nn.Dense(4 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x += nn.Dense(self.width, dtype=self.dtype)(nn.gelu(y))
        weight = seen[..., None].astype(x.dtype)
        # A sentence without words is a mean of nothing, 0.
        mean = (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
        features = nn.relu(nn.Dense(self.hidden, dtype=self.dtype)(mean))
        logits = nn.Dense(self.num_classes, dtype=self.dtype)(features)
        return {"logits": logits.astype(jnp.float32), "features": features.astype(jnp.float32)}
