"""Small convolutional network."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.models import layers
from unlearnjax.types import Array


class ConvNet(nn.Module):
    """3x3 convolutions, each with 2x2 max pooling and ReLU, then one hidden dense layer.

    With the defaults on 28x28x1 inputs and ten classes: 421,642 parameters.

    Attributes:
      num_classes: C.
      channels: channels of the convolutions.
      hidden: width of the dense layer.
      dtype: compute type (`jnp.bfloat16` for mixed precision); logits are float32.
    """

    num_classes: int
    channels: Sequence[int] = (32, 64)
    hidden: int = 128
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> dict[str, Array]:
        del train
        x = inputs
        for width in self.channels:
            x = nn.relu(layers.max_pool(layers.Conv(width, dtype=self.dtype)(x)))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype)(x))
        logits = nn.Dense(self.num_classes, dtype=self.dtype)(x)
        return {"logits": logits.astype(jnp.float32), "features": x.astype(jnp.float32)}
