"""What a model draws: answer sets to be judged, images to learn from, noised ones on the way."""

import jax
import jax.numpy as jnp

from unlearnjax import checks, parallel
from unlearnjax import data as data_lib
from unlearnjax.diffusion import samplers
from unlearnjax.diffusion.denoiser import noise_of
from unlearnjax.types import Array, Batch, Data, Task, Variables


def answer_set(
    task: Task,
    variables: Variables,
    rng: Array,
    conditions: Array,
    per_condition: int,
    *,
    batch_size: int = 256,
) -> Array:
    """A grid of images, conditions x seeds.

    Image j of every condition starts at the same noise, which follows from `rng` and j alone: so do
    two models' answers, which can then be compared image by image.

    Args:
      task: generates 'images', e.g. `tasks.diffusion`.
      variables: the model's.
      rng: of the noise.
      conditions: `[K]` whole numbers, or `[K, L]` prompts.
      per_condition: n, images of each.
      batch_size: images at a time; results do not depend on it.

    Returns:
      `[K, n, H, W, C]`.
    """
    checks.whole(per_condition=per_condition)
    checks.at_least(1, per_condition=per_condition)
    grid = {
        "condition": jnp.repeat(jnp.asarray(conditions), per_condition, axis=0),
        "index": jnp.tile(jnp.arange(per_condition), len(conditions)),
    }
    images = draw_images(task, variables, rng, grid, batch_size=batch_size)
    return images.reshape(len(conditions), per_condition, *images.shape[1:])


def replay(
    task: Task, variables: Variables, rng: Array, conditions: Array, *, batch_size: int = 256
) -> Data:
    """A data set of a model's own images, for methods that see no others.

    Args:
      task, variables, rng, batch_size: as for `answer_set`.
      conditions: `[N]` or `[N, L]`, of each example; also its `targets`.

    Returns:
      Columns `inputs` `[N, H, W, C]`, `condition`, `targets` and `index` (0 .. N-1).
    """
    conditions = jnp.asarray(conditions)
    rows = {"condition": conditions, "index": jnp.arange(conditions.shape[0], dtype=jnp.int32)}
    images = draw_images(task, variables, rng, rows, batch_size=batch_size)
    return {"inputs": images, "targets": conditions, **rows}


def draw_images(
    task: Task, variables: Variables, rng: Array, data: Data, *, batch_size: int = 256
) -> Array:
    """`[N, H, W, C]`: the images that a task generates for rows of `condition` and `index`.

    One compiled loop over chunks, each split over the devices of the mesh that is set.

    Raises:
      ValueError: for a task that generates nothing, or data without these columns or any row.
    """
    if task.generate is None:
        raise ValueError("task must generate images, such as `tasks.diffusion`")
    checks.whole(batch_size=batch_size)
    checks.at_least(1, batch_size=batch_size)
    missing = sorted({"condition", "index"} - set(data))
    if missing:
        raise ValueError(f"data must have the columns 'condition' and 'index', lacks {missing}")
    given = {name: jnp.asarray(data[name]) for name in ("condition", "index")}
    n = data_lib.num_examples(given)
    if not n:
        raise ValueError("conditions must be at least one, got none")
    rows = data_lib.pad_indices(jnp.arange(n), min(batch_size, n))

    def chunk(row: Array) -> Array:
        batch: Batch = jax.tree.map(lambda x: x[data_lib.position(row)], given)
        return task.generate(task, variables, rng, parallel.constrain(batch))["images"]

    images = jax.lax.map(chunk, rows)
    return images.reshape(-1, *images.shape[2:])[:n]


def bank(
    keys: Array,
    predict: samplers.Predict,
    shape: tuple[int, int, int],
    condition: Array,
    steps: samplers.Steps,
) -> Data:
    """Noised images that a model passes through when it draws: every step of one run is a row.

    For methods that train on a model's own x_t: n exact pairs for the passes of one.

    Args:
      keys: `[B]`, one per run.
      predict: `functools.partial(denoise, variables)`, guided as a rule.
      shape: `(H, W, C)` of an image.
      condition: `[B]` or `[B, L]`.
      steps: e.g. `samplers.ddim_steps(process, 15)`.

    Returns:
      Columns `noised` `[n * B, H, W, C]`, `time` and `index` `[n * B]`, and `condition`; no
      gradient flows through them. Cost: n - 1 passes.
    """
    start = noise_of(keys, shape)
    noised, time = samplers.trajectory(steps)(keys, predict, start, condition)
    number = time.shape[0] * time.shape[1]
    return {
        "noised": noised.reshape(number, *noised.shape[2:]),
        "time": time.reshape(number),
        "condition": jnp.tile(condition, (time.shape[0], *[1] * (condition.ndim - 1))),
        "index": jnp.arange(number, dtype=jnp.int32),
    }
