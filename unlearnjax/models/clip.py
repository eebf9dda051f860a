"""A pair of encoders whose images and texts meet in one space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.types import Array

# Logits are cosines times this at the start, and at most times the other.
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0


class CLIP(nn.Module):
    """Called as `module(inputs, condition, train=...)` with images and prompts, `[B, ...]` each.

    Returns 'image' and 'text', unit vectors `[B, E]`, and 'scale' `[B]`, the one inverse
    temperature that is learned with them.

    Attributes:
      image_encoder: `module(inputs, train=...)` with 'logits' `[B, E]`, such as `ViT(E)`, whose
        head is the projection.
      text_encoder: `module(tokens)` with 'pooled' `[B, D]`, such as `TextEncoder`; it is projected
        without a bias.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module

    @nn.compact
    def __call__(self, inputs: Array, condition: Array, train: bool = False) -> dict[str, Array]:
        image = self.image_encoder(inputs, train=train)["logits"]
        pooled = self.text_encoder(condition, train=train)["pooled"]
        text = nn.Dense(image.shape[-1], use_bias=False, name="text_projection")(pooled)
        start = nn.initializers.constant(math.log(FIRST_SCALE))
        scale = jnp.exp(self.param("log_scale", start, (), jnp.float32))
        scale = jnp.minimum(scale, LARGEST_SCALE)
        return {
            "image": _unit(image),
            "text": _unit(text),
            "scale": jnp.broadcast_to(scale, image.shape[:1]),
        }


def _unit(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
