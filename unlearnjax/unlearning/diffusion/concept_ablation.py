"""Concept ablation: under the forgotten condition the model is to see what it sees in an anchor.

Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023 (arXiv 2303.13516).
"""

import jax
import numpy as np

from unlearnjax import checks, diffusion
from unlearnjax.diffusion import Process
from unlearnjax.types import Request, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend
from unlearnjax.unlearning.diffusion import conditions
from unlearnjax.unlearning.teachers import original, original_model

TEACHERS = ("original", "student")


def concept_ablation(
    tx: Transform,
    process: Process,
    *,
    anchor: int | None = None,
    teacher: str = "original",
    num_images: int = 200,
    anchor_weight: float = 1.0,
    num_steps: int = 100,
    batch_size: int = 8,
) -> Unlearner:
    """Minimises `mean |e(x_t, t, c) - sg e_s(x_t, t, a)|^2` on images that the model drew of a.

    Plus `anchor_weight` times the task's loss on the same images under their own condition a, on
    the same draws. In evaluation mode, without dropped conditions, as published models have no
    dropout. Predictions are compared as the task compares them, in the network's own
    parametrisation.

    The authors' code takes the student itself for the teacher, without gradient ('student' here);
    the original cannot drift with it. It moves keys and values of cross-attention alone, those of a
    prompt's first token without gradient: here all parameters, or what `confined` says, see
    `leaves`. Its second term is an option, off by default, then with weight 0.2 and on the same
    images with times and noise of their own. Here it is on, since nothing else holds the anchor
    where the whole network moves, and shares the first one's draws. Published: 200 images (1,000 in
    the paper), AdamW 2e-6 per example of the batch, gradients clipped to norm 1.

    Args:
      tx: optax transformation, or what makes one.
      process: the task's.
      anchor: a; `None` is each forgotten condition's next.
      teacher: e_s, 'original' or 'student'.
      num_images: that are drawn, spread over the forgotten examples' conditions.
      anchor_weight: >= 0.
      num_steps: updates.
      batch_size: images per step.

    Returns:
      An unlearner that needs the forget data's conditions alone, no images and no labels. Cost: the
      drawing; two passes of the student and, for 'original', two of the teacher per step.

    Raises:
      ValueError: for a value out of range, and at the request for an unknown condition or none,
        and a forgotten one that is among the anchors.
    """
    conditions.validate_anchor(anchor, process)
    checks.one_of(teacher=(teacher, TEACHERS))
    checks.whole(num_images=num_images)
    checks.at_least(1, num_images=num_images)
    checks.finite(anchor_weight=anchor_weight)
    checks.at_least(0, anchor_weight=anchor_weight)
    loop = descend(
        ablating(None if teacher == "student" else teacher, anchor_weight),
        tx,
        over="forget",
        num_steps=num_steps,
        batch_size=batch_size,
        teachers={"original": original_model},
        labels=False,
        inputs=False,
    )

    def update(rng, task, variables, memory, request: Request):
        conditions.validate_request(request, anchor, process)
        draw_rng, loop_rng = jax.random.split(rng)
        condition = conditions.of(request.forget, "forget", process)
        anchors = conditions.replaced(request.forget, anchor, process)
        # Evenly over the examples, however they are sorted and however many they are.
        chosen = np.arange(num_images) * condition.shape[0] // num_images
        condition, anchors = condition[chosen], anchors[chosen]
        drawn = diffusion.replay(task, original(variables, request), draw_rng, anchors)
        forget = {
            "inputs": drawn["inputs"],
            "index": drawn["index"],
            "condition": condition,
            "anchor.condition": anchors,
        }
        return loop.update(loop_rng, task, variables, memory, request._replace(forget=forget))

    return loop._replace(update=update)


def ablating(teacher: str | None, anchor_weight: float) -> objectives.Objective:
    """The objective of `concept_ablation`, of rows with the column `anchor.condition`.

    The teacher `None` is the student itself, without gradient.
    """
    return objectives.combine(
        forget=[
            (1.0, objectives.divergence(teacher, at="anchor")),
            (anchor_weight, objectives.viewed(objectives.task_loss, "anchor")),
        ],
        views=("anchor",),
    )
