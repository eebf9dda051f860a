"""Multi-layer perceptron."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.types import Array


class MLP(nn.Module):
    """Dense layers with ReLU; inputs of any shape are flattened.

    Attributes:
      num_classes: C.
      hidden: widths of the hidden layers.
      dtype: compute type (`jnp.bfloat16` for mixed precision); logits are float32.
    """

    num_classes: int
    hidden: Sequence[int] = (256, 256)
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> dict[str, Array]:
        del train
        x = inputs.reshape(inputs.shape[0], -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
        logits = nn.Dense(self.num_classes, dtype=self.dtype)(x)
        return {"logits": logits.astype(jnp.float32), "features": x.astype(jnp.float32)}
