"""RMU: hidden states of what is forgotten are steered to one random direction.

Li et al., "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning", ICML 2024
(arXiv 2403.03218).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unlearnjax import checks, tasks, training, trees
from unlearnjax.types import Array, Batch, Request, Unlearner
from unlearnjax.unlearning import objectives, teachers
from unlearnjax.unlearning.descend import Transform, descend, init_nothing
from unlearnjax.unlearning.language import answers

# The collection of what does not move.
_FROZEN = "frozen_by_rmu"


def rmu(
    tx: Transform,
    *,
    layer: str,
    where: Sequence[str] | None = None,
    scale: float = 6.5,
    retain_weight: float = 1200.0,
    num_steps: int = 150,
    batch_size: int = 4,
) -> Unlearner:
    """RMU: hidden states of the forget set are steered to one direction, all others held.

    Of the states h `[T, D]` that a layer returns, minimises the mean over tokens of
    `|h_t - c u|^2 / D` on the forget set, plus `retain_weight` times that of `|h_t - h_0t|^2 / D`
    on the retain set, h_0 the original's. u is uniform in [0, 1)^D, normalised, and drawn once per
    request. The student is in evaluation mode.

    The authors' code averages over padding, too, and sees one topic per step, each with its own u;
    here tokens are those that predict the answer, and there is one u. (open-unlearning's are those
    *of* the answer, one later.) For TOFU it has c = 2, a weight of 1 and moves all parameters.

    Args:
      tx: optax transformation; AdamW 5e-5 in the paper.
      layer: the name of the layer, see `tasks.capture`: a block in the middle, the 8th of 32 there.
      where: the parameters that move, see `trees.chosen`; all others stay bit-equal. The paper's
        are the output matrices of the MLPs of that block and the two before it; `None` is all.
      scale: c, > 0; 6.5 for Zephyr-7B. It should be large beside the norm of h.
      retain_weight: alpha, >= 0.
      num_steps: updates, each with a batch of either set.
      batch_size: examples of each set per step.

    Returns:
      An unlearner that needs forget and retain data and labels, which outputs of a language model
      are of. Cost: per step two passes up to that layer, and the gradient of one by the parameters
      that move.

    Raises:
      ValueError: for a value out of range, at the request for tokens without `answer`, or for a
        layer or parameters that the model has not; it lists those that there are.
    """
    checks.name(layer=layer)
    if where is not None:
        checks.not_text(where=where)
    checks.positive(scale=scale)
    checks.finite(scale=scale, retain_weight=retain_weight)
    checks.at_least(0, retain_weight=retain_weight)

    def steer(target: Array) -> Unlearner:
        return descend(
            objectives.combine(
                forget=[(1.0, steered(layer, target))],
                retain=[(retain_weight, steered(layer, None))],
            ),
            tx,
            over="paired",
            num_steps=num_steps,
            batch_size=batch_size,
            teachers={"original": teachers.original_model},
            cache_teachers=(),
        )

    def update(rng, task, variables, memory, request: Request):
        answers.require_answer(forget=request.forget, retain=request.retain)
        draw_rng, loop_rng = jax.random.split(rng)
        # Without `merge`, what is merged below is the choice of parameters alone.
        own = tasks.trained(task._replace(merge=None), where, _FROZEN)
        own = tasks.capture(own, (layer,))
        start = tasks.split(variables, where, _FROZEN)
        original = tasks.split(teachers.original(variables, request), where, _FROZEN)
        width = training.output_shapes(own, start, request.forget)[f"hidden.{layer}"].shape[-1]
        target = scale * direction(draw_rng, width)
        request = request._replace(original=original)
        found, memory = steer(target).update(loop_rng, own, start, memory, request)
        return tasks.merged(own, found), memory

    return Unlearner(init_nothing, update, steer(jnp.zeros(1)).needs)


def direction(rng: Array, width: int) -> Array:
    """`[width]`: u, of norm 1 and with no negative entry."""
    drawn = jax.random.uniform(rng, (width,))
    return drawn / jnp.linalg.norm(drawn)


def steered(layer: str, target: Array | None) -> objectives.Term:
    """`|h_t - target|^2 / D`, mean over the answer's tokens; `None`: the original's states.

    Of a classifier's layer, over all places that it has.
    """

    def states(outputs) -> Array:
        hidden = trees.widened(outputs[f"hidden.{layer}"])
        return hidden.reshape(hidden.shape[0], -1, hidden.shape[-1])

    def term(task, outputs, batch: Batch, teachers):
        del task
        hidden = states(outputs)
        aim = states(teachers["original"]) if target is None else target
        distance = jnp.mean((hidden - aim) ** 2, axis=-1)
        if "answer" not in batch:
            answers.require_answer(batch=batch)
            return distance.mean(axis=-1)
        return answers.mean(distance, answers.mask(batch, distance.shape))

    return term
