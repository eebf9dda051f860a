"""Does an image show what the prompt says? As a contrastive pair of encoders has it.

Hessel et al., "CLIPScore", EMNLP 2021; here by a pair of one's own, so that its numbers compare
with no others.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks, parallel, training
from unlearnjax.types import Array, Task, Variables


def clip_pair(
    task: Task, variables: Variables, images: Array, prompts: Array, *, batch_size: int = 256
) -> np.ndarray:
    """`[N]`: cosines of images and their prompts, between -1 and 1.

    Needs: a pair that was trained on real images alone. Value of a perfect unlearner: the oracle's,
    which for a forgotten prompt is that of images that show something else.

    Args:
      task, variables: of `tasks.contrastive`.
      images: `[N, H, W, C]`, as the pair was trained on.
      prompts: `[N, L]` tokens.
      batch_size: images at a time; results do not depend on it.

    Raises:
      ValueError: for another number of prompts than images, or none.

    Cost: a pass of either encoder.
    """
    own = _embedded(task, variables, images, prompts, batch_size)
    return np.sum(own["image"] * own["text"], axis=1)


def zero_shot(
    task: Task, variables: Variables, images: Array, prompts: Array, *, batch_size: int = 256
) -> np.ndarray:
    """`[N, K]`: cosines of every image with each of K prompts; the largest names it.

    Args:
      task, variables, images, batch_size: see `clip_pair`.
      prompts: `[K, L]`.
    """
    images, prompts = jnp.asarray(images), jnp.asarray(prompts)
    n, k = images.shape[0], prompts.shape[0]
    if not n or not k:
        raise ValueError(f"images and prompts must be at least one each, got {n} and {k}")
    # Each half is called with the other: whichever are fewer come again.
    rows = np.arange(max(n, k))
    own = _embedded(task, variables, images[rows % n], prompts[rows % k], batch_size)
    return own["image"][:n] @ own["text"][:k].T


def _embedded(
    task: Task, variables: Variables, images: Array, prompts: Array, batch_size: int
) -> dict[str, np.ndarray]:
    images, prompts = jnp.asarray(images), jnp.asarray(prompts)
    checks.whole(batch_size=batch_size)
    checks.at_least(1, batch_size=batch_size)
    if images.shape[0] != prompts.shape[0] or not images.shape[0]:
        raise ValueError(
            f"images and prompts must be as many, and at least one, got {images.shape[0]} and "
            f"{prompts.shape[0]}"
        )
    return parallel.fetch(_outputs(task, variables, images, prompts, batch_size))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _outputs(
    task: Task, variables: Variables, images: Array, prompts: Array, batch_size: int
) -> dict[str, Array]:
    data = {"inputs": images, "condition": prompts}
    found = training.outputs(task, variables, data, batch_size=batch_size)
    if not {"image", "text"} <= set(found):
        raise ValueError(
            f"task must be one of `tasks.contrastive`, its outputs are {sorted(found)}"
        )
    return {name: found[name] for name in ("image", "text")}
