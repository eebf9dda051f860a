"""Image to image, for noise that is learned: the residual generator."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.models import layers
from unlearnjax.types import Array


class Generator(nn.Module):
    """Two strided convolutions, residual blocks, two transposed ones; values in [-1, 1].

    Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution",
    ECCV 2016, as Unlearnable Clusters (Zhang et al., CVPR 2023) has it: images are continued by
    reflection before convolutions of 7x7 and in blocks, ReLU, batch norm. Any height and width from
    4 on: what the strides round up is cut off again.

    Attributes:
      channels: of the output.
      width: channels of the first convolution; the blocks have four times as many.
      num_blocks: residual blocks.
      dtype: compute type; the output is float32.
    """

    channels: int
    width: int = 64
    num_blocks: int = 6
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        def conv(x, width, size, stride=1, bias=False):
            if stride == 1:
                x = _reflected(x, size // 2)
            options = {"strides": (stride, stride), "padding": "VALID" if stride == 1 else "SAME"}
            return layers.Conv(width, (size, size), use_bias=bias, dtype=self.dtype, **options)(x)

        def norm(x):
            # Momentum and epsilon are PyTorch's defaults.
            return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)(x)

        _, height, width, _ = inputs.shape
        x = nn.relu(norm(conv(inputs, self.width, 7)))
        for factor in (2, 4):
            x = nn.relu(norm(conv(x, self.width * factor, 3, stride=2)))
        for _ in range(self.num_blocks):
            branch = nn.relu(norm(conv(x, self.width * 4, 3)))
            x = x + norm(conv(branch, self.width * 4, 3))
        for factor in (2, 1):
            up = nn.ConvTranspose(
                self.width * factor, (3, 3), (2, 2), use_bias=False, dtype=self.dtype
            )
            x = nn.relu(norm(up(x)))
        x = conv(x, self.channels, 7, bias=True)
        return jnp.tanh(x[:, :height, :width].astype(jnp.float32))


def _reflected(x: Array, reach: int) -> Array:
    """Continued by reflection; by its edges where it is too small to be reflected."""
    mode = "reflect" if reach < min(x.shape[1:3]) else "edge"
    return jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=mode)
