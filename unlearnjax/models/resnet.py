"""ResNet-18 with the CIFAR stem. He et al., "Deep Residual Learning", CVPR 2016."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.models import layers
from unlearnjax.types import Array


class ResNet(nn.Module):
    """Residual network of basic blocks, 3x3 stem without pooling (32x32 inputs).

    Attributes:
      num_classes: C.
      stage_sizes: blocks per stage; (2, 2, 2, 2) is ResNet-18 (11.2M parameters).
      width: channels of the first stage, doubled from stage to stage.
      norm: 'batch' (running statistics in `batch_stats`) or 'group' (up to 32 groups, stateless).
      axis_name: mapped axis over which batch statistics are averaged under pmap/shard_map.
      dtype: compute type (`jnp.bfloat16` for mixed precision); logits are float32.
    """

    num_classes: int
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    width: int = 64
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> dict[str, Array]:
        if self.norm not in ("batch", "group"):
            raise ValueError(f"norm must be 'batch' or 'group', got {self.norm!r}")
        if self.norm == "batch":
            norm = partial(
                nn.BatchNorm,
                use_running_average=not train,
                momentum=0.9,
                axis_name=self.axis_name,
                dtype=self.dtype,
            )
        else:
            norm = partial(nn.GroupNorm, num_groups=min(32, self.width), dtype=self.dtype)
        x = layers.Conv(self.width, use_bias=False, dtype=self.dtype)(inputs)
        x = nn.relu(norm()(x))
        for stage, num_blocks in enumerate(self.stage_sizes):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = _Block(self.width * 2**stage, stride, norm, self.dtype)(x)
        x = x.mean(axis=(1, 2))
        logits = nn.Dense(self.num_classes, dtype=self.dtype)(x)
        return {"logits": logits.astype(jnp.float32), "features": x.astype(jnp.float32)}


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    features: int
    stride: int
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        conv = partial(layers.Conv, self.features, use_bias=False, dtype=self.dtype)
        strides = (self.stride, self.stride)
        x = nn.relu(self.norm()(conv(strides=strides)(inputs)))
        # The last scale starts at zero, so that each block starts as the identity.
        x = self.norm(scale_init=nn.initializers.zeros_init())(conv()(x))
        shortcut = inputs
        if inputs.shape != x.shape:
            shortcut = self.norm()(conv(kernel_size=(1, 1), strides=strides)(inputs))
        return nn.relu(x + shortcut)
