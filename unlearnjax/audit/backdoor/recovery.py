"""Recovery of triggers: the smallest change that turns any image into a class.

Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", S&P
2019, in the two forms in which it is published.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks
from unlearnjax import data as data_lib
from unlearnjax.audit.backdoor.images import Predict, pixels
from unlearnjax.data import triggers
from unlearnjax.types import Array

FORMS = ("adaptive", "fixed")
AXES = ("map", "vmap")


class Recovered(NamedTuple):
    """A trigger found for a class, `data.triggers.masked(mask, pattern)`.

    Attributes:
      mask: `[H, W, 1]` in [0, 1].
      pattern: `[H, W, C]` in [0, 1].
      norm: L1 norm of the mask, in pixels.
      success: share of the images, after it, that the model takes for the class.
    """

    mask: Array
    pattern: Array
    norm: Array
    success: Array


class _Search(NamedTuple):
    """Of one class: what is optimised, what was best, how strong the penalty is."""

    free: tuple[Array, Array]
    opt_state: tuple
    weight: Array
    above: Array
    below: Array
    best: tuple[Array, Array]
    best_norm: Array


def recover_trigger(
    predict: Predict,
    images: Array,
    label: int | Array,
    rng: Array,
    *,
    form: str = "adaptive",
    num_epochs: int | None = None,
    batch_size: int = 64,
    learning_rate: float | None = None,
    weight: float | None = None,
    least_success: float = 0.98,
    patience: int = 5,
) -> Recovered:
    """The smallest mask and pattern that turn clean images into a class: Neural Cleanse.

    Minimises `mean cross-entropy(predict((1 - m) x + m p), label) + weight * sum m` over
    `m [H, W, 1]` and `p [H, W, C]`, both in [0, 1].

    'adaptive': `m, p = tanh(.) / 2 + 1/2` by Adam with betas 0.5 and 0.9. The weight doubles after
    `patience` epochs in a row in which at least `least_success` of the images were taken for the
    class, and is divided by 2^1.5 after as many in which they were not; what is returned is the
    smallest mask of an epoch that reached it, or the last one if none did (BackdoorBench).

    'fixed': the weight stays, by Adam with its own betas, clipped to [0, 1] after each step; the
    last is returned (the code of Li et al., which keeps the smallest norm of an epoch, but the last
    pattern).

    Both start from uniform noise in [0, 1] (BackdoorBench's from 0.88 everywhere), and visit the
    images in a new order in every epoch; the last, smaller batch of an epoch counts as others do.
    Cost: `num_epochs` forward and backward passes.

    Args:
      predict: see above.
      images: `[N, H, W, C]` clean pixels in [0, 1], of all classes.
      label: the class; may be traced, so that all classes are one program.
      rng: of the start and the orders.
      form: 'adaptive' or 'fixed'.
      num_epochs: default 80, 'fixed' 20.
      batch_size: images per step.
      learning_rate: of Adam; default 0.1, 'fixed' 5e-3.
      weight: of the norm, >= 0, at the start; default 1e-3, 'fixed' 0.01.
      least_success, patience: of 'adaptive'.

    Raises:
      ValueError: for a value out of range, images of another shape or outside of [0, 1].

    References:
      Wang et al., "Neural Cleanse", S&P 2019; Wu et al., "BackdoorBench", NeurIPS 2022; Li et al.,
      "Expose Before You Defend", 2024 (arXiv 2410.19427).
    """
    checks.one_of(form=(form, FORMS))
    adaptive = form == "adaptive"
    num_epochs = (80 if adaptive else 20) if num_epochs is None else num_epochs
    learning_rate = (0.1 if adaptive else 5e-3) if learning_rate is None else learning_rate
    weight = (1e-3 if adaptive else 0.01) if weight is None else weight
    checks.whole(num_epochs=num_epochs, batch_size=batch_size, patience=patience)
    checks.at_least(1, num_epochs=num_epochs, batch_size=batch_size, patience=patience)
    checks.positive(learning_rate=learning_rate)
    checks.at_least(0, weight=weight)
    checks.part(least_success=least_success)
    images = pixels(images)
    if not len(images):
        raise ValueError(f"images must be at least one, got {images.shape}")
    known = jax.eval_shape(predict, images).shape[-1]
    if not checks.traced(label) and not 0 <= label < known:
        raise ValueError(f"label must be a class of the model, below {known}, got {label}")
    size = len(images)
    tx = optax.adam(learning_rate, b1=0.5, b2=0.9) if adaptive else optax.adam(learning_rate)
    opened = lambda free: jax.tree.map(lambda x: jnp.tanh(x) / 2 + 0.5, free) if adaptive else free
    objective = _objective(predict, images, label, opened)

    def step(state: _Search, rows):
        slopes, hits = jax.grad(objective, has_aux=True)(state.free, rows, state.weight)
        updates, opt_state = tx.update(slopes, state.opt_state, state.free)
        free = optax.apply_updates(state.free, updates)
        free = free if adaptive else jax.tree.map(lambda x: jnp.clip(x, 0, 1), free)
        return state._replace(free=free, opt_state=opt_state), hits

    def epoch(state: _Search, key):
        order = jax.random.permutation(key, size)
        rows = data_lib.pad_indices(order, min(batch_size, size))
        state, hits = jax.lax.scan(step, state, rows)
        reached = hits.sum() >= least_success * size
        return (_judged(state, opened(state.free), reached, patience) if adaptive else state), None

    start_rng, order_rng = jax.random.split(rng)
    free = _uniform(start_rng, images)
    # What tanh makes the noise of; away from its ends, where it has no slope.
    free = jax.tree.map(lambda x: jnp.arctanh(0.99 * (2 * x - 1)), free) if adaptive else free
    none, never = jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, images.dtype)
    weight = jnp.asarray(weight, images.dtype)
    start = _Search(free, tx.init(free), weight, none, none, opened(free), never)
    end, _ = jax.lax.scan(epoch, start, jax.random.split(order_rng, num_epochs))
    mask, pattern = jax.tree.map(
        lambda best, last: jnp.where(jnp.isfinite(end.best_norm), best, last),
        end.best,
        opened(end.free),
    )
    hits = predict(triggers.masked(mask, pattern)(images)).argmax(-1) == label
    return Recovered(mask, pattern, mask.sum(), hits.mean())


def recover_triggers(
    predict: Predict, images: Array, num_classes: int, rng: Array, *, axis: str = "map", **options
) -> Recovered:
    """`recover_trigger` for every class, leaves `[C, ...]`.

    Args:
      predict, images, rng: see there; every class has the same start and orders.
      num_classes: C, the model's.
      axis: 'vmap' searches all at once, 'map' one after another within the program.
      **options: of `recover_trigger`.
    """
    checks.one_of(axis=(axis, AXES))
    known = jax.eval_shape(predict, pixels(images)).shape[-1]
    if num_classes != known:
        raise ValueError(f"num_classes must be the model's {known}, got {num_classes}")
    one = lambda label: recover_trigger(predict, images, label, rng, **options)
    labels = jnp.arange(num_classes)
    return jax.vmap(one)(labels) if axis == "vmap" else jax.lax.map(one, labels)


def _objective(predict: Predict, images: Array, label, opened):
    """`(free, rows, weight) -> (loss, hits)` of some of the images; rows of -1 are padding."""

    def objective(free, rows, weight):
        mask, pattern = opened(free)
        stamp = triggers.masked(mask, pattern)
        present = (rows >= 0).astype(images.dtype)
        logits = predict(stamp(images[rows]))
        wanted = jnp.full(rows.shape, label, jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
        hits = ((logits.argmax(-1) == label) * present).sum()
        return (losses * present).sum() / present.sum() + weight * mask.sum(), hits

    return objective


def _judged(state: _Search, found, reached: Array, patience: int) -> _Search:
    """After an epoch: the weight by how often it was enough, and the smallest mask that was."""
    above = jnp.where(reached, state.above + 1, 0)
    below = jnp.where(reached, 0, state.below + 1)
    up, down = above >= patience, below >= patience
    factor = jnp.where(up, 2.0, jnp.where(down, 2**-1.5, 1.0))
    norm = found[0].sum()
    better = reached & (norm < state.best_norm)
    return state._replace(
        weight=state.weight * factor,
        above=jnp.where(up, 0, above),
        below=jnp.where(down, 0, below),
        best=jax.tree.map(lambda new, old: jnp.where(better, new, old), found, state.best),
        best_norm=jnp.where(better, norm, state.best_norm),
    )


def _uniform(rng: Array, images: Array) -> tuple[Array, Array]:
    """A mask `[H, W, 1]` and a pattern `[H, W, C]` of uniform noise in [0, 1]."""
    height, width, channels = images.shape[1:]
    return tuple(
        jax.random.uniform(key, (height, width, own), images.dtype)
        for key, own in zip(jax.random.split(rng), (1, channels), strict=True)
    )
