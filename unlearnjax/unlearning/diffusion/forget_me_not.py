"""Forget-Me-Not: nothing in an image is to look at the words of a concept.

Zhang et al., "Forget-Me-Not: Learning to Forget in Text-to-Image Diffusion Models", CVPR Workshops
2024 (arXiv 2303.17591).
"""

import jax.numpy as jnp

from unlearnjax import checks, tasks, trees
from unlearnjax.diffusion import Process
from unlearnjax.types import Request, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend
from unlearnjax.unlearning.diffusion import concepts, conditions


def forget_me_not(
    tx: Transform,
    process: Process,
    *,
    ends: bool = True,
    attention: str = "*.cross.weights",
    num_steps: int = 35,
    batch_size: int = 1,
) -> Unlearner:
    """Minimises the Euclidean norm of all attention that a concept's tokens get, see `attended`.

    On images of the concept, noised at times drawn anew, in evaluation mode, under a prompt that
    names the concept alone, as published, where the forget set has that in `alone.condition` and
    `alone.concept`, else under their own: what the network predicts does not matter. The norm is
    not squared, so that its gradient does not fade with it: it is the rate and the steps that end
    this.

    The authors' code first learns new tokens for the concept (textual inversion), as its own name
    may not be all that means it; here the prompt's own stand for it. It takes one norm over a
    batch, which has one image; ours is the mean over a batch of each image's own. It moves the
    whole denoiser or, for the styles of UnlearnCanvas, cross-attention alone, never the text
    encoder: see `unlearning.confined`. AdamW, decay 0.01, gradients clipped to norm 1; 35 steps of
    2e-6, in UnlearnCanvas 100 of 2e-5.

    Args:
      tx: optax transformation, or what makes one.
      process: the task's, which reads prompts.
      ends: whether all end tokens count as the concept's, too, padding being such; as published
        by UnlearnCanvas. The authors' tokeniser (Stable Diffusion 2.1) pads by another token, so
        that of theirs one end counts.
      attention: the layers that return shares `[B, ..., L]` of the tokens, a name of
        `tasks.capture`.
      num_steps: updates.
      batch_size: images per step.

    Returns:
      An unlearner that needs the images of forget data, their prompts `condition` and the 0/1 mask
      `concept` of the concept's own tokens, `[N, L]`. Cost: per step one gradient.

    Raises:
      ValueError: for a value out of range, and at the request for a missing column, prompts without
        the concept, or a layer that the model has not.
    """
    concepts.validate_prompts(process)
    checks.name(attention=attention)
    loop = descend(
        objectives.combine(forget=[(1.0, attended(attention))]),
        tx,
        over="forget",
        num_steps=num_steps,
        batch_size=batch_size,
        labels=False,
    )

    def update(rng, task, variables, memory, request: Request):
        request = conditions.alone(request)
        condition = jnp.asarray(conditions.forgotten(request, process))
        mask = jnp.asarray(concepts.masks(request.forget, process)["concept"], jnp.int32)
        if ends:
            mask = jnp.maximum(mask, (condition == process.null[-1]).astype(jnp.int32))
        request = request._replace(forget={**request.forget, "concept": mask})
        return loop.update(rng, tasks.capture(task, (attention,)), variables, memory, request)

    return loop._replace(update=update)


def attended(attention: str) -> objectives.Term:
    """`sqrt(sum A^2)` over layers, heads, places in the image and the tokens in `concept`.

    Args:
      attention: the layers, see `forget_me_not`; the task must capture them.
    """

    def term(task, outputs, batch, teachers):
        del task, teachers
        names, concept = sorted(outputs), batch["concept"]
        meant = trees.chosen(dict.fromkeys(names, 0), [f"hidden.{attention}"], "attention")
        total = jnp.zeros(concept.shape[0])
        for name in (name for name, chosen in zip(names, meant, strict=True) if chosen):
            shares = trees.widened(outputs[name])
            if shares.ndim < 3 or (shares.shape[0], shares.shape[-1]) != concept.shape:
                wanted = f"[{concept.shape[0]}, ..., {concept.shape[1]}]"
                raise ValueError(
                    f"attention must name layers {wanted} for {concept.shape[0]} prompts, "
                    f"{name.removeprefix('hidden.')!r} is {list(shares.shape)}"
                )
            shares = shares.reshape(shares.shape[0], -1, shares.shape[-1])
            total += jnp.sum(shares**2 * concept[:, None], axis=(1, 2))
        # Where no share is left, there is no slope, in the place of an infinite one.
        return jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0)

    return term
