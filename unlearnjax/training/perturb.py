"""Perturbed inputs: attacks and noise in the loop, around any loss.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018
(arXiv 1706.06083).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearnjax import checks, tasks, trees
from unlearnjax.data import pixels
from unlearnjax.training.step import LossFn
from unlearnjax.types import Array, Batch, Task, Variables

# (rng, variables, batch) -> batch with other `inputs`
Perturb = Callable[[Array, Variables, Batch], Batch]

NORMS = ("linf", "l2")
# Sets the keys of perturbations apart from those of the loss.
_PERTURB = 0xADD


def perturbed(loss_fn: LossFn, perturb: Perturb) -> LossFn:
    """The loss of perturbed inputs: adversarial training, training under noise.

    No gradient goes through the perturbation. An objective of `descend` makes a `LossFn`, so that
    this makes any method adversarial; what its teachers said ahead of the loop (`cache_teachers`)
    is of the inputs as they were.

    Args:
      loss_fn: any, e.g. `supervised(task)`.
      perturb: e.g. `pgd(task, radius=0.03)`.

    Examples:
      >>> import optax
      >>> from unlearnjax import training, unlearning
      >>> from unlearnjax.unlearning import objectives
      >>> repair = objectives.combine(retain=[(1.0, objectives.task_loss)])
      >>> def objective(task, teachers):
      ...     attack = training.pgd(task, radius=0.03, train=False)
      ...     return training.perturbed(repair(task, teachers), attack)
      >>> method = unlearning.descend(
      ...     objective, optax.sgd(0.1), over="retain", num_epochs=1, batch_size=64
      ... )
    """

    def own(variables: Variables, batch: Batch, rng: Array):
        moved = perturb(jax.random.fold_in(rng, _PERTURB), variables, batch)
        return loss_fn(variables, {**batch, "inputs": _stopped(moved["inputs"])}, rng)

    return own


def pgd(
    task: Task,
    *,
    norm: str = "linf",
    radius: float | Array,
    num_steps: int = 10,
    step_size: float | Array | None = None,
    random_start: bool = False,
    bounds: tuple[float | Array, float | Array] | None = None,
    train: bool = True,
) -> Perturb:
    """Projected gradient ascent of each example's loss by its inputs, x.

    With d the change and g the gradient, a step is, for `linf`,
    `d <- clip(d + step_size * sign(g), -radius, radius)`, and for `l2`, norms per example,
    `d <- P(d + step_size * g / max(|g|, 1e-12))` with `P(d) = d * min(1, radius / |d|)`; then
    `x + d` is clipped to `bounds`. d is kept in float32 at least, and `x + d` is rounded towards x
    where the nearest number of the inputs' type lies further out, so that no input leaves the ball:
    where that type has none within, it stays. One step of `linf` without a random start and of size
    `radius` is the fast gradient sign method (Goodfellow et al., ICLR 2015). The model is in
    evaluation mode, its running statistics stay. Cost: `num_steps` forward and backward passes.

    Args:
      task: whose loss is raised.
      norm: of the ball, 'linf' or 'l2'.
      radius: of the ball, >= 0, in units of `inputs`; for `linf` also one per channel. For pixels
        see `in_pixels`.
      num_steps: of ascent.
      step_size: of each, in the same units; default `1.5 * radius / num_steps`.
      random_start: whether d starts uniformly in the ball, by the key and the example's `index`,
        and not at 0.
      bounds: lowest and highest input, also per channel. An input that lies outside is not moved
        further out.
      train: whether the loss that is raised is of what `supervised` draws in training, augmentation
        included (the same draw, by the batch's `key`), or of what is drawn in evaluation, as
        objectives do unless they train.

    Raises:
      ValueError: for a value out of range, and where it is used, for inputs that are not
        floating-point.
    """
    checks.one_of(norm=(norm, NORMS))
    checks.whole(num_steps=num_steps)
    checks.at_least(1, num_steps=num_steps)
    _at_least_0(radius=radius)
    if step_size is not None:
        _at_least_0(step_size=step_size)
    if norm == "l2" and jnp.ndim(radius):
        raise ValueError(f"radius must be one number for norm 'l2', got {jnp.shape(radius)}")
    if bounds is not None and not any(map(checks.traced, bounds)):
        low, high = bounds
        if not jnp.all(jnp.asarray(low) < jnp.asarray(high)):
            raise ValueError(f"bounds must be (lowest, highest) inputs, got {bounds}")

    def perturb(rng: Array, variables: Variables, batch: Batch) -> Batch:
        inputs = jnp.asarray(batch["inputs"])
        checks.floating(inputs=inputs)
        frozen = _stopped(variables)
        wide = trees.widened(inputs)  # in few digits the change would grow with each rounding
        size = jnp.asarray(radius, wide.dtype)
        step = 1.5 * size / num_steps
        if step_size is not None:
            step = jnp.asarray(step_size, wide.dtype)

        def moved(change):
            """The inputs after a change, and what of it the bounds leave."""
            result = (wide + change).astype(inputs.dtype)
            outside = jnp.abs(trees.widened(result) - wide) > jnp.abs(change)
            result = jnp.where(outside, jnp.nextafter(result, inputs), result)
            if bounds is None:
                return result, change
            limits = lambda x: (
                jnp.minimum(jnp.asarray(bounds[0], x.dtype), x),
                jnp.maximum(jnp.asarray(bounds[1], x.dtype), x),
            )
            low, high = limits(wide)
            return jnp.clip(result, *limits(inputs)), jnp.clip(change, low - wide, high - wide)

        def total(attacked):
            drawn = tasks.drawn(task, {**batch, "inputs": attacked}, train)
            outputs, _ = task.apply(frozen, drawn, None, False)
            return task.loss(outputs, drawn).sum()

        def ascend(state, _):
            attacked, change = state
            # Squares of few digits would overflow or vanish.
            slope = trees.widened(jax.grad(total)(attacked))
            if norm == "linf":
                return moved(jnp.clip(change + step * jnp.sign(slope), -size, size)), None
            change += step * slope / jnp.maximum(_norms(slope), 1e-12)
            return moved(change * jnp.minimum(1, size / jnp.maximum(_norms(change), 1e-12))), None

        start = inputs, jnp.zeros_like(wide)
        if random_start:
            start = moved(size * _random(_keys(rng, batch), inputs.shape[1:], norm))
        (attacked, _), _ = jax.lax.scan(ascend, start, length=num_steps)
        return {**batch, "inputs": attacked}

    return perturb


def gaussian(sigma: float) -> Perturb:
    """Adds normal noise of deviation `sigma` >= 0, by the key and each example's `index`."""
    checks.at_least(0, sigma=sigma)

    def perturb(rng: Array, variables: Variables, batch: Batch) -> Batch:
        del variables
        inputs = jnp.asarray(batch["inputs"])
        checks.floating(inputs=inputs)
        draw = lambda key: jax.random.normal(key, inputs.shape[1:], inputs.dtype)
        noise = jax.vmap(draw)(_keys(rng, batch))
        return {**batch, "inputs": inputs + jnp.asarray(sigma, inputs.dtype) * noise}

    return perturb


def in_pixels(
    make: Callable[[Task], Perturb],
    task: Task,
    mean: Array,
    std: Array,
    *,
    low: float = 0.0,
    high: float = 255.0,
) -> Perturb:
    """A perturbation of pixels in [0, 1], for inputs that are standardised.

    Args:
      make: what makes it, of a task whose inputs are such pixels, e.g.
        `lambda task: pgd(task, radius=8 / 255, bounds=(0, 1))`.
      task: of the standardised inputs, which all of its parts get, augmentation and loss included.
      mean, std: the standardisation, per channel, as a `data.Dataset` has it: `inputs * std + mean`
        is what is stored.
      low, high: the range of what is stored, which [0, 1] stands for.

    Raises:
      ValueError: unless `low < high`.
    """
    scale = pixels.pixel_scale(mean, std, low=low, high=high)

    def standard(batch: Batch) -> Batch:
        return {**batch, "inputs": pixels.to_inputs(batch["inputs"], scale)}

    def stored(batch: Batch) -> Batch:
        return {**batch, "inputs": pixels.to_pixels(batch["inputs"], scale)}

    def divergence(outputs, reference, batch, temperature=1.0):
        return task.divergence(outputs, reference, standard(batch), temperature)

    perturb = make(
        task._replace(
            apply=lambda variables, batch, *rest: task.apply(variables, standard(batch), *rest),
            loss=lambda outputs, batch: task.loss(outputs, standard(batch)),
            metrics=lambda outputs, batch: task.metrics(outputs, standard(batch)),
            draw=task.draw
            and (lambda rng, example, train: stored(task.draw(rng, standard(example), train))),
            divergence=task.divergence and divergence,
        )
    )

    def own(rng: Array, variables: Variables, batch: Batch) -> Batch:
        inputs = jnp.asarray(batch["inputs"])
        checks.floating(inputs=inputs)
        moved = lambda images: perturb(rng, variables, {**batch, "inputs": images})["inputs"]
        return {**batch, "inputs": pixels.on_inputs(moved, scale)(inputs)}

    return own


def _random(keys: Array, shape: tuple[int, ...], norm: str) -> Array:
    """`[B, ...]`: uniform in the unit ball."""
    if norm == "linf":
        return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))(keys)

    def one(key):
        direction_key, length_key = jax.random.split(key)
        direction = jax.random.normal(direction_key, shape)
        length = jax.random.uniform(length_key) ** (1 / max(direction.size, 1))
        return length * direction / jnp.maximum(jnp.linalg.norm(direction.ravel()), 1e-12)

    return jax.vmap(one)(keys)


def _norms(x: Array) -> Array:
    """`[B, 1, ...]`: Euclidean norm of each example."""
    return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))


def _keys(rng: Array, batch: Batch) -> Array:
    """`[B]` keys, by `index` where the batch is numbered, else by position."""
    rows = {"index": jnp.arange(len(batch["inputs"]))}
    named = tasks.keyed({k: batch[k] for k in ("index",) if k in batch}, rng)
    return named["key"] if "key" in named else tasks.keyed(rows, rng)["key"]


def _stopped(tree):
    return jax.lax.stop_gradient(tree)


def _at_least_0(**values) -> None:
    for name, value in values.items():
        if not checks.traced(value) and not jnp.all(jnp.asarray(value) >= 0):
            raise ValueError(f"{name} must be >= 0, got {value}")
