"""SalUn for generation: what is forgotten becomes another condition, by the salient weights alone.

Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR 2024
(arXiv 2310.12508), equation 6.
"""

import optax

from unlearnjax import checks, diffusion
from unlearnjax.diffusion import Process
from unlearnjax.types import Array, Batch, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives, saliency
from unlearnjax.unlearning.descend import descend
from unlearnjax.unlearning.diffusion import conditions


def salun_diffusion(
    tx: optax.GradientTransformation,
    process: Process,
    *,
    anchor: int | None = None,
    keep: float = 0.5,
    retain_weight: float = 3.07,
    guidance: float = 3.0,
    num_steps: int = 1000,
    batch_size: int = 128,
) -> Unlearner:
    """Teaches the model to see in the forgotten images' noise what it sees under another condition.

    Minimises `mean |e(x_t, t, c) - sg e(x_t, t, c')|^2` on forget images, plus `retain_weight`
    times the task's loss on retain images; both sides are the present student, in training mode,
    and each drops its condition by itself as often as training does. Only the parameters move whose
    gradient at the given model is largest, that of the *guided* prediction's loss on the forget
    set, in evaluation mode.

    Predictions are compared as the task compares them, in the network's own parametrisation. As in
    the authors' code for DDPM, except that theirs takes the mean over pixels for the first term and
    the sum for the second (a published `alpha` becomes `alpha` times the pixels, 1e-3 becomes 3.07
    on CIFAR-10), draws dropout of the network apart for the two sides, and sums the gradients of
    batches, each clipped to norm 1, for the mask; ours is that of the mean over all examples and
    draws. Clip gradients by `optax.clip_by_global_norm` in `tx`: the published norm is 1, of the
    sum. Where it reads prompts, the code of UnlearnCanvas asks whether a name is among tensors
    before it masks a gradient, and so never does; it moves cross-attention, see `confined`.

    Args:
      tx: optax transformation; Adam 1e-4 in the paper.
      process: the task's.
      anchor: c', what the forgotten conditions become; `None` is each one's next, as published.
      keep: share of the parameters that may move, in (0, 1]; the published median is 0.5.
      retain_weight: alpha, >= 0.
      guidance: of the mask's loss, `e_0 + guidance (e_c - e_0)`; published is `w = 2`, that is 3.
      num_steps: updates, each with a batch of either set.
      batch_size: examples of each set per step.

    Returns:
      An unlearner that needs the images of forget and retain data and no labels. Cost: per step
      four forward passes of a batch, of which that of the retain examples under another condition
      is for nothing, and the gradient of two; one pass for the mask.

    Raises:
      ValueError: for a value out of range, and at the request for an unknown condition or none,
        and a forgotten one that is its own replacement.
    """
    conditions.validate_anchor(anchor, process)
    checks.finite(retain_weight=retain_weight, guidance=guidance)
    checks.at_least(0, retain_weight=retain_weight)
    loop = descend(
        replacing(retain_weight),
        saliency.salient(tx, keep, lambda task: guided_task(task, guidance, process.null)),
        over="paired",
        num_steps=num_steps,
        batch_size=batch_size,
        labels=False,
    )

    def update(rng, task, variables, memory, request: Request):
        conditions.validate_replacement(request, anchor, process)
        conditions.retained(request, process)
        becomes = {"anchor.condition": conditions.replaced(request.forget, anchor, process)}
        forget = {**request.forget, **becomes}
        return loop.update(rng, task, variables, memory, request._replace(forget=forget))

    return loop._replace(update=update)


def replacing(retain_weight: float) -> objectives.Objective:
    """The objective of `salun_diffusion`; forget examples have the column `anchor.condition`."""

    def dropping(task: Task, variables: Variables, teachers, batch: Batch, rng: Array) -> Batch:
        del variables, teachers
        anchors = conditions.dropped(task, batch, "anchor.condition", rng)
        return {**batch, "anchor.condition": anchors}

    return objectives.combine(
        forget=[(1.0, objectives.divergence(None, at="anchor"))],
        retain=[(retain_weight, objectives.task_loss)],
        train=True,
        views=("anchor",),
        prepare=dropping,
    )


def guided_task(task: Task, scale: float, null: int | tuple[int, ...]) -> Task:
    """A diffusion task that predicts with guidance, `e_0 + scale (e_c - e_0)`, in what it learns.

    So its loss is that of the guided prediction; see `diffusion.guided` for sampling.
    """

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        outputs, updated = task.apply(variables, batch, rng, train)
        blank = diffusion.null_like(batch["condition"], null)
        free, _ = task.apply(variables, {**batch, "condition": blank}, rng, train)
        mix = lambda name: free[name] + scale * (outputs[name] - free[name])
        mixed = {name: mix(name) for name in ("prediction", "noise")}
        return {**outputs, **mixed}, updated

    return task._replace(apply=apply)
