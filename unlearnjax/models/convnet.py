"""Small convolutional network."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.models import layers
from unlearnjax.types import Array


class ConvNet(nn.Module):
    """3x3 convolutions, each with 2x2 max pooling and ReLU, then one hidden dense layer.

    With the defaults on 28x28x1 inputs and ten classes: 421,642 parameters; 96 more with `norm`,
    which adds scales and biases, and takes the convolutions' biases away.

    Attributes:
      num_classes: C.
      channels: channels of the convolutions.
      hidden: width of the dense layer.
      norm: 'batch' normalises every convolution before it is pooled (running statistics in
        `batch_stats`, as `ResNet` has them); `None` is none.
      axis_name: mapped axis over which batch statistics are averaged under pmap/shard_map.
      dtype: compute type (`jnp.bfloat16` for mixed precision); logits are float32.
    """

    num_classes: int
    channels: Sequence[int] = (32, 64)
    hidden: int = 128
    norm: str | None = None
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> dict[str, Array]:
        if self.norm not in (None, "batch"):
            raise ValueError(f"norm must be None or 'batch', got {self.norm!r}")
        normalised = self.norm is not None
        x = inputs
        for width in self.channels:
            x = layers.Conv(width, use_bias=not normalised, dtype=self.dtype)(x)
            if normalised:
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                )(x)
            x = nn.relu(layers.max_pool(x))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype)(x))
        logits = nn.Dense(self.num_classes, dtype=self.dtype)(x)
        return {"logits": logits.astype(jnp.float32), "features": x.astype(jnp.float32)}
