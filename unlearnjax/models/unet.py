"""The U-Net of DDPM for 32x32 images, with classes as in the codes that forget them.

Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020; Heng and Soh, "Selective
Amnesia", NeurIPS 2023; Fan et al., "SalUn", ICLR 2024.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax.models import embeddings, layers
from unlearnjax.types import Array


class UNet(nn.Module):
    """Residual blocks at falling and rising resolution, the falling ones' results carried across.

    Called as `module(noised, time, condition, train=...)`, see `tasks.diffusion`. The defaults on
    32x32x3 and ten classes have 38,632,323 parameters. Time and class each have an MLP, which every
    block reads side by side. Initial values are DDPM's: what ends a block starts at zero, and so
    does the prediction.

    Attributes:
      num_classes: conditions 0 .. num_classes - 1; one more, the number itself, says nothing.
      width: channels at full resolution; up to 32 norm groups, whose number must divide it.
      multiples: of the width, per resolution, each half of the one before.
      num_blocks: residual blocks per resolution on the way down; one more on the way up.
      attention: resolutions (side lengths) whose blocks are followed by attention.
      dropout: rate within blocks, at training time only.
      dtype: compute type (`jnp.bfloat16` for mixed precision); predictions are float32, or float64
        where the images are.
    """

    num_classes: int
    width: int = 128
    multiples: Sequence[int] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention: Sequence[int] = (16,)
    dropout: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(
        self, noised: Array, time: Array, condition: Array, train: bool = False
    ) -> dict[str, Array]:
        halvings = len(self.multiples) - 1
        if any(side % 2**halvings for side in noised.shape[1:3]):
            raise ValueError(
                f"{len(self.multiples)} resolutions need sides that {2**halvings} divides, got "
                f"images {noised.shape[1:3]}"
            )
        norm = partial(nn.GroupNorm, num_groups=min(32, self.width), epsilon=1e-6, dtype=self.dtype)
        conv = partial(layers.Conv, kernel_init=_spread(1.0), dtype=self.dtype)
        mlp = partial(_MLP, 4 * self.width, self.dtype)
        table = embeddings.Classes(self.num_classes, self.width, 1.0, self.dtype, name="classes")
        of_time = mlp(name="time")(embeddings.waves(time, self.width))
        told = nn.silu(jnp.concatenate([of_time, mlp(name="class")(table(condition))], axis=-1))

        def block(x, channels, name):
            return _Block(channels, self.dropout, norm, self.dtype, name=name)(x, told, train)

        def attended(x, name):
            here = x.shape[1] in self.attention
            return _Attention(norm, self.dtype, name=f"{name}_attention")(x) if here else x

        x = conv(self.width, name="in")(noised)
        carried = [x]
        for level, multiple in enumerate(self.multiples):
            for i in range(self.num_blocks):
                name = f"down_{level}_{i}"
                x = attended(block(x, multiple * self.width, name), name)
                carried.append(x)
            if level < halvings:
                x = conv(x.shape[-1], strides=(2, 2), name=f"down_{level}")(x)
                carried.append(x)
        x = block(x, x.shape[-1], "middle_0")
        x = _Attention(norm, self.dtype, name="middle_attention")(x)
        x = block(x, x.shape[-1], "middle_1")
        for level, multiple in reversed(list(enumerate(self.multiples))):
            for i in range(self.num_blocks + 1):
                name = f"up_{level}_{i}"
                joined = jnp.concatenate([x, carried.pop()], axis=-1)
                x = attended(block(joined, multiple * self.width, name), name)
            if level:
                doubled = x.repeat(2, axis=1).repeat(2, axis=2)
                x = conv(x.shape[-1], name=f"up_{level}")(doubled)
        x = nn.silu(norm(name="out_norm")(x))
        x = conv(noised.shape[-1], kernel_init=_spread(0.0), name="out")(x)
        return {"prediction": x.astype(jnp.promote_types(noised.dtype, jnp.float32))}


class _MLP(nn.Module):
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = partial(nn.Dense, self.features, kernel_init=_spread(1.0), dtype=self.dtype)
        return dense(name="out")(nn.silu(dense(name="in")(x)))


class _Block(nn.Module):
    """Two 3x3 convolutions, between them what the network is told, and a shortcut."""

    features: int
    dropout: float
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, inputs: Array, told: Array, train: bool) -> Array:
        conv = partial(layers.Conv, self.features, dtype=self.dtype)
        dense = partial(nn.Dense, self.features, kernel_init=_spread(1.0), dtype=self.dtype)
        x = conv(kernel_init=_spread(1.0), name="conv_0")(nn.silu(self.norm(name="norm_0")(inputs)))
        x = x + dense(name="told")(told)[:, None, None]
        x = nn.silu(self.norm(name="norm_1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = conv(kernel_init=_spread(0.0), name="conv_1")(x)
        return x + (inputs if inputs.shape == x.shape else dense(name="shortcut")(inputs))


class _Attention(nn.Module):
    """Among all positions, one head as wide as the channels; added to its input."""

    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        batch, _, _, channels = inputs.shape
        dense = partial(nn.Dense, dtype=self.dtype)
        x = dense(3 * channels, kernel_init=_spread(1.0), name="qkv")(
            self.norm(name="norm")(inputs)
        )
        query, key, value = jnp.split(x.reshape(batch, -1, 1, 3 * channels), 3, axis=-1)
        x = jax.nn.dot_product_attention(query, key, value)
        x = dense(channels, kernel_init=_spread(0.0), name="out")(x)
        return inputs + x.reshape(inputs.shape)


def _spread(scale: float) -> Any:
    """DDPM's initial values; of scale 0 zeros."""
    if scale == 0:
        return nn.initializers.zeros_init()
    return nn.initializers.variance_scaling(scale, "fan_avg", "uniform")
