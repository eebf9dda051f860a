"""Removal of backdoors with a small clean set, the retain set of the request."""

from collections.abc import Callable, Sequence

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from unlearnjax import checks, tasks, training, trees
from unlearnjax import data as data_lib
from unlearnjax.training.evaluate import example
from unlearnjax.types import Array, Data, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives, teachers, transforms
from unlearnjax.unlearning.backdoor.exposure import clean_unlearning, of_norms
from unlearnjax.unlearning.chain import chain
from unlearnjax.unlearning.descend import Transform, descend, init_nothing, resolve
from unlearnjax.unlearning.finetune import finetune

# Published: from 0 to 0.9 in steps of 0.05.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(19))
PARTS = ("forget", "retain", "validation")
BY = ("threshold", "number")


def rnp(
    tx: Transform,
    *,
    ascent_rate: float = 0.01,
    ascent_epochs: int = 20,
    stop_accuracy: float = 0.2,
    num_epochs: int = 20,
    batch_size: int = 128,
    alpha: float = 0.2,
    thresholds: Sequence[float] = THRESHOLDS,
    max_drop: float = 0.05,
    by: str = "threshold",
    clean: str = "retain",
) -> Unlearner:
    """Reconstructive neuron pruning: unlearn the clean set, recover it by masks, prune by these.

    `chain(clean_unlearning(...), recover_prune(tx, ...))`, the first by SGD with momentum 0.9 in
    training mode, until the accuracy on the clean set is at most `stop_accuracy`.

    Args:
      tx: optax transformation of the masks; published is SGD of rate 0.2 with momentum 0.9.
      ascent_rate, ascent_epochs, stop_accuracy: of the unlearning.
      num_epochs, alpha, thresholds, max_drop, by: see `recover_prune`.
      batch_size: of both.
      clean: which part of the request is known to be clean: 'retain', 'validation' or 'forget'.

    Returns:
      An unlearner that needs that part, with labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Li et al., "Reconstructive Neuron Pruning for Backdoor Defense", ICML 2023 (arXiv 2305.14876).
    """
    checks.positive(ascent_rate=ascent_rate)
    exposure = clean_unlearning(
        optax.sgd(ascent_rate, momentum=0.9),
        num_epochs=ascent_epochs,
        batch_size=batch_size,
        stop_accuracy=stop_accuracy,
        train=True,
    )
    pruning = recover_prune(
        tx,
        num_epochs=num_epochs,
        batch_size=batch_size,
        alpha=alpha,
        thresholds=thresholds,
        max_drop=max_drop,
        by=by,
    )
    return on_part(chain(exposure, pruning), clean)


def recover_prune(
    tx: Transform,
    *,
    num_epochs: int = 20,
    batch_size: int = 128,
    alpha: float = 0.2,
    thresholds: Sequence[float] = THRESHOLDS,
    max_drop: float = 0.05,
    by: str = "threshold",
    where: trees.Where = None,
) -> Unlearner:
    """The second half of RNP: what an *exposed* model needs to be right again is not the backdoor.

    The given model is the exposed one, `request.original` the backdoored; so it stands in a `chain`
    after any exposure. Masks in [0, 1], one a channel, start at 1 and are trained on the exposed
    model, whose parameters are frozen, in training mode, to minimise `alpha * cross-entropy` on the
    clean set. Channels whose mask falls to a threshold or below are then set to 0 in the original.

    The published code reports what every threshold gives. Here it is the largest with which the
    accuracy on the clean set is at most `max_drop` below the original's; if none is, the original
    stays as it is. Masks that reach 0 are all pruned by the smallest published threshold; `by` the
    number of channels they are pruned one after another (of equal masks in their order).

    Args:
      tx: optax transformation of the masks; published is SGD of rate 0.2 with momentum 0.9.
      num_epochs, batch_size: of their training.
      alpha: coefficient of the cross-entropy, >= 0.
      thresholds: from the smallest on; one alone is taken as it is.
      max_drop: >= 0.
      by: 'threshold', or 'number': thresholds are shares of the channels, those of the smallest
        masks (`--pruning-by` of the published code).
      where: the parameters that have masks, see `trees.chosen`. `None` is as published the scales
        of the batch norms, whose biases stay; of a model without any, which theirs are not, the
        kernels of all layers but the last.

    Returns:
      An unlearner that needs the retain set, with labels. Cost: `num_epochs` passes forward and
      backward, and a forward pass per threshold.

    Raises:
      ValueError: for a value out of range, or thresholds that do not rise.
    """
    checks.at_least(0, alpha=alpha, max_drop=max_drop)
    checks.not_text(thresholds=thresholds)
    for threshold in thresholds:
        checks.finite(thresholds=threshold)
    if not len(thresholds) or (np.diff(thresholds) <= 0).any():
        raise ValueError(f"thresholds must rise, got {thresholds}")
    checks.one_of(by=(by, BY))
    objective = objectives.combine(retain=[(alpha, objectives.task_loss)], train=True)

    def bounded(rng, task, variables, request):
        own = resolve(tx, rng, task, variables, request)
        return optax.chain(own, transforms.stay_within(0.0, 1.0))

    recover = descend(
        objective, bounded, over="retain", num_epochs=num_epochs, batch_size=batch_size
    )

    def update(rng, task: Task, variables: Variables, memory, request: Request):
        original = teachers.original(variables, request)
        masked = tasks.channel_masks(task, _masked(task, variables, request.retain, where))
        init_rng, loop_rng = jax.random.split(rng)
        start = training.init_variables(masked, request.retain, init_rng, tasks.as_base(variables))
        recovered, _ = recover.update(loop_rng, masked, start, (), request)
        masks = recovered["params"] if by == "threshold" else ranked(recovered["params"])
        weights = data_lib.weights(request.retain)

        def accuracy(params: PyTree) -> Array:
            seen = training.evaluate(task, {**original, "params": params}, request.retain)
            return jnp.average(seen["accuracy"], weights=weights)

        levels = jnp.asarray(thresholds, jnp.float32)
        of_level = jax.lax.map(lambda t: accuracy(pruned(original["params"], masks, t)), levels)
        good = of_level >= accuracy(original["params"]) - max_drop - 1e-6  # of rounding
        last = levels.size - 1 - jnp.argmax(good[::-1])
        none = levels[0] if levels.size == 1 else -1.0  # which is below any mask
        threshold = jnp.where(good.any(), levels[last], none)
        return {**original, "params": pruned(original["params"], masks, threshold)}, memory

    return Unlearner(init_nothing, update, frozenset({"retain", "inputs", "labels"}))


def pruned(params: PyTree, masks: PyTree, threshold: float | Array) -> PyTree:
    """Parameters with the channels at 0 whose mask is at most the threshold.

    Args:
      params: a model's.
      masks: of `tasks.channel_masks`: `None`, or one number for each entry of the last axis.
      threshold: below 0 nothing is pruned, from 1 on all that has masks.

    Examples:
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.ones(2)}
      >>> pruned(params, {"kernel": jnp.array([0.2, 0.9]), "bias": None}, 0.5)["kernel"].tolist()
      [[0.0, 2.0], [0.0, 4.0]]
    """
    leaves, treedef = jax.tree.flatten(params)
    pairs = zip(leaves, treedef.flatten_up_to(masks), strict=True)
    # A mask that is no number, of an exposed model that is none, says nothing of its channel.
    keep = lambda leaf, mask: leaf * (~(mask <= threshold)).astype(leaf.dtype)
    return treedef.unflatten([leaf if mask is None else keep(leaf, mask) for leaf, mask in pairs])


def ranked(masks: PyTree) -> PyTree:
    """Masks by their order: that of the k-th smallest of K entries becomes `k / K`, k from 1.

    Examples:
      >>> ranked({"kernel": jnp.array([0.3, 0.0]), "bias": None})["kernel"].tolist()
      [1.0, 0.5]
    """
    flat, unflatten = jax.flatten_util.ravel_pytree(masks)
    order = jnp.argsort(jnp.argsort(flat, stable=True), stable=True)
    return unflatten(((order + 1) / flat.size).astype(flat.dtype))


def trigger_unlearning(
    tx: Transform,
    stamp: Callable[[Array], Array],
    *,
    share: float = 0.2,
    num_epochs: int = 1,
    batch_size: int = 128,
) -> Unlearner:
    """Fine-tunes on a clean set of which a part carries a recovered trigger, with its true labels.

    Args:
      tx: optax transformation.
      stamp: puts the trigger on inputs `[N, ...]`; of pixels see `data.pixels.on_inputs`.
      share: of the retain set that carries it, drawn once per request, in [0, 1].
      num_epochs, batch_size: of `finetune`.

    Returns:
      An unlearner that needs the retain set, with labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Wang et al., "Neural Cleanse", S&P 2019, section VI.B: 20 % of the images, one epoch.
    """
    checks.share(share=share)
    loop = finetune(tx, num_epochs=num_epochs, batch_size=batch_size)

    def update(rng, task, variables, memory, request: Request):
        drawn_rng, rng = jax.random.split(rng)
        inputs = jnp.asarray(request.retain["inputs"])
        size = len(inputs)
        rows = jax.random.permutation(drawn_rng, size)[: round(share * size)]
        stamped = inputs.at[rows].set(stamp(inputs[rows])) if rows.size else inputs
        request = request._replace(retain={**request.retain, "inputs": stamped})
        return loop.update(rng, task, variables, memory, request)

    return loop._replace(update=update)


def on_part(unlearner: Unlearner, part: str) -> Unlearner:
    """The unlearner, whose forget and retain set are both that part of the request.

    A defender has one clean set, which an exposure forgets and a removal retains.

    Args:
      unlearner: any.
      part: 'forget', 'retain' or 'validation'.
    """
    checks.one_of(part=(part, PARTS))

    def update(rng, task, variables, memory, request: Request):
        own = getattr(request, part)
        request = request._replace(forget=own, retain=own)
        return unlearner.update(rng, task, variables, memory, request)

    needs = (unlearner.needs - {"forget", "retain"}) | {part}
    return unlearner._replace(update=update, needs=needs)


def _masked(task: Task, variables: Variables, data: Data, where: trees.Where) -> trees.Where:
    """The parameters that have masks: those asked for, the scales of norms, or hidden kernels."""
    if where is not None:
        return where
    names = trees.names(variables["params"])
    scales = [name for name in of_norms(variables) if name.endswith(".scale")]
    if scales:
        return scales
    last = tasks.layer_names(task, variables, example(task, data))[-1]
    return [name for name in names if name.endswith(".kernel") and not name.startswith(f"{last}.")]
