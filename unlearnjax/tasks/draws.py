"""What is random about a loss: drawn per example, so that it depends on nothing else.

A time and its noise, a latent, a mask, negatives, a crop: `Task.draw` adds them to an example as
columns. Student and teacher, unlearned model and oracle then see the same draw, whatever the batch,
its order or the devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearnjax.types import Array, Batch, Outputs, Task, Variables

# Seeds the draws of evaluation, which are the same for every model.
EVALUATION = 0
# Under others, such as rbg, what is drawn for one example depends on those mapped beside it.
_IMPLEMENTATION = "threefry2x32"

# (rng, example) -> example
Augment = Callable[[Array, Batch], Batch]


def keyed(batch: Batch, rng: Array) -> Batch:
    """The batch with the keys of its draws, `key` `[B]`, from `rng` and its `index` alone.

    Unchanged where it has keys already, or no `index` that numbers its examples.
    """
    if "key" in batch or not _is_numbered(batch):
        return batch
    return {**batch, "key": _keys(_threefry(rng), batch)}


def drawn(task: Task, batch: Batch, train: bool = False) -> Batch:
    """The batch with what the task draws for each example.

    The draws follow from the column `key`, which every training step adds; without it they are
    those of evaluation, from `index` alone. A task that draws nothing, or nothing outside of
    training, gets its batch back.

    Args:
      task: see `Task.draw`.
      batch: columns `[B, ...]`.
      train: whether to draw what training alone is to see, such as augmentation.

    Raises:
      ValueError: for a batch with neither `key` nor `index`.
    """
    if task.draw is None or not (train or task.num_draws):
        return batch
    keys = batch["key"] if "key" in batch else _keys(_evaluation(), batch)
    examples = {name: value for name, value in batch.items() if name != "key"}
    if "stratum" not in examples:
        examples["stratum"] = jnp.tile(jnp.array([0.0, 1.0]), (keys.shape[0], 1))
    return jax.vmap(lambda key, example: task.draw(key, example, train))(keys, examples)


def expected(task: Task, num_draws: int | None = None) -> Task:
    """The task in evaluation: losses and metrics are means over `num_draws` fixed draws.

    It draws nothing any more, so that what is made of it (curvature, audits, attribution) is the
    same in every call and paired between models. Draw k of K has the column `stratum`, the part
    `[k / K, (k + 1) / K]` of the unit interval that a task may spread its draws over. With several
    draws its outputs have them as second axis, `[B, K, ...]`. A task that draws nothing is itself.

    Args:
      task: any.
      num_draws: other than the task's own; 1 for what reads outputs, which then are `[B, ...]`.

    Cost: `num_draws` passes.
    """
    if task.draw is None or task.num_draws == 0:
        return task._replace(draw=None)
    number = num_draws or task.num_draws

    def several(batch: Batch) -> Batch:
        """`[B * K, ...]`, the draws of an example side by side."""
        keys = jax.vmap(lambda key: jax.random.split(key, number))
        bounds = jnp.arange(number + 1) / number
        strata = jnp.stack([bounds[:-1], bounds[1:]], axis=-1)
        own = {
            "key": keys(_keys(_evaluation(), batch)).reshape(-1),
            "stratum": jnp.tile(strata, (batch["index"].shape[0], 1)),
        }
        repeated = {name: jnp.repeat(value, number, axis=0) for name, value in batch.items()}
        return drawn(task, {**repeated, **own})

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        outputs, updated = task.apply(variables, several(batch), rng, train)
        return jax.tree.map(split, outputs), updated

    def split(x: Array) -> Array:
        return x.reshape(-1, number, *x.shape[1:]) if number > 1 else x

    def merged(outputs: Outputs) -> Outputs:
        join = lambda x: x.reshape(-1, *x.shape[2:]) if number > 1 else x
        return jax.tree.map(join, outputs)

    def mean(values: Array) -> Array:
        return values.reshape(-1, number, *values.shape[1:]).mean(1)

    def loss(outputs: Outputs, batch: Batch) -> Array:
        return mean(task.loss(merged(outputs), several(batch)))

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        return {k: mean(v) for k, v in task.metrics(merged(outputs), several(batch)).items()}

    def divergence(outputs: Outputs, reference: Outputs, batch: Batch, temperature: float = 1.0):
        given = merged(outputs), merged(reference), several(batch)
        return mean(task.divergence(*given, temperature))

    return task._replace(
        apply=apply,
        loss=loss,
        metrics=metrics,
        draw=None,
        divergence=task.divergence and divergence,
    )


def augmented(task: Task, augment: Augment) -> Task:
    """The task whose training examples are augmented anew each time, before what it draws itself.

    Args:
      task: any.
      augment: `(rng, example) -> example` without a batch axis, e.g. `data.pad_crop_flip`.
    """

    def draw(rng: Array, example: Batch, train: bool) -> Batch:
        own, rest = jax.random.split(rng)
        example = augment(own, example) if train else example
        return example if task.draw is None else task.draw(rest, example, train)

    # Where the task draws nothing itself, evaluation draws nothing either.
    return task._replace(draw=draw, num_draws=task.num_draws if task.draw else 0)


def _keys(rng: Array, batch: Batch) -> Array:
    if "index" not in batch:
        raise ValueError(
            "data must have the column 'index' where a task draws (augmentation, noise, latents), "
            f"got {sorted(batch)}"
        )
    index = batch["index"]
    if not _is_numbered(batch):
        raise ValueError(f"index must be [N] integers, got {index.dtype} {list(index.shape)}")
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(index)


def _is_numbered(batch: Batch) -> bool:
    index = batch.get("index")
    return index is not None and index.ndim == 1 and jnp.issubdtype(index.dtype, jnp.integer)


def _evaluation() -> Array:
    return jax.random.key(EVALUATION, impl=_IMPLEMENTATION)


def _threefry(rng: Array) -> Array:
    """A key made of another one, of the implementation whose draws mapping leaves as they are."""
    bits = jax.random.bits(rng, (2,), jnp.uint32)
    return jax.random.wrap_key_data(bits, impl=_IMPLEMENTATION)
