"""Selective amnesia: noise under the forgotten condition, the model's own images under the others.

Heng and Soh, "Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative
Models", NeurIPS 2023 (arXiv 2305.10120).
"""

import jax
import jax.numpy as jnp

from unlearnjax import checks, curvature, diffusion
from unlearnjax import data as data_lib
from unlearnjax.diffusion.denoiser import Process, validate
from unlearnjax.types import Array, Batch, Data, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend, init_nothing
from unlearnjax.unlearning.diffusion import conditions
from unlearnjax.unlearning.parts import validate_length
from unlearnjax.unlearning.teachers import original

IMPORTANCES = ("mean", "summed")
SURROGATES = ("noise", "anchor")


def selective_amnesia(
    tx: Transform,
    process: Process,
    *,
    strength: float = 30_720.0,
    replay_weight: float = 1.0,
    importance: str = "summed",
    surrogate: str = "noise",
    num_images: int = 5000,
    num_steps: int = 20_000,
    batch_size: int = 128,
) -> Unlearner:
    """Minimises `l(q, c_f) + replay_weight l(x, c) + strength sum_i F_i (theta_i - theta0_i)^2`.

    l is the task's loss; q are images of uniform noise, drawn anew in every step, under the
    forgotten conditions, x are images that the original drew of the retained ones, and F is the
    importance of parameters to what it draws of all. The student is in training mode, but no
    condition is dropped. Where prompts are read, the authors' q are images of something neutral
    ('anchor': what the original drew of each forgotten condition's anchor), as noise is for none;
    they show them under the concept's bare name, we under the forgotten prompts as they are.

    The authors' code sums l over the P pixels, which turns its lambda into `strength = lambda P`
    here: 10 into 30,720 on CIFAR-10. That goes with its F, which squares, image by image, the
    gradient summed over all T times ('summed' here). The Fisher diagonal of the loss that is
    minimised is the mean of squared gradients over images, times and noise ('mean'), T to T^2 times
    smaller, and wants as much more strength. Ours takes the task's `num_draws` K for all times, so
    that 'summed' has the variance of that sample on top, at most `T^2 / K` of one draw's. Their
    code for Stable Diffusion takes means, lambda 50, AdamW 1e-5, and moves the whole denoiser.

    The authors' F drops a tenth of the conditions; their steps clip the gradient of the sums to
    norm 1, which is `optax.clip_by_global_norm(1 / P)` in `tx`. They draw as many images of every
    condition, we as many as there are examples of it.

    Args:
      tx: optax transformation, or what makes one; Adam 1e-4 in the paper.
      process: the task's; it must bound its images where q is noise.
      strength: of the penalty, >= 0.
      replay_weight: gamma, >= 0.
      importance: of parameters, 'summed' or 'mean'.
      surrogate: q, 'noise' or 'anchor': of prompts the column `anchor.condition`, of a class the
        next.
      num_images: that are drawn of retained conditions, and as many more of the forgotten ones as
        there are in proportion.
      num_steps: updates.
      batch_size: of noise and of images, each, per step.

    Returns:
      An unlearner that needs the conditions of forget and retain data, no images and no labels.
      Cost: the drawing, with 'anchor' of the forgotten part twice; for F a pass over what is drawn
      for each of the task's `num_draws`; per step the gradient of two batches.

    Raises:
      ValueError: for a value out of range, and at the request for an unknown condition or none,
        and with 'anchor' a forgotten one that is its own anchor.
    """
    validate(process)
    checks.finite(strength=strength, replay_weight=replay_weight)
    checks.at_least(0, strength=strength, replay_weight=replay_weight)
    validate_length(None, num_steps)
    checks.one_of(importance=(importance, IMPORTANCES), surrogate=(surrogate, SURROGATES))
    checks.whole(num_images=num_images, batch_size=batch_size)
    checks.at_least(1, num_images=num_images, batch_size=batch_size)
    if process.clip is None and surrogate == "noise":
        raise ValueError("process must bound its images by clip, noise is drawn within, got None")

    def update(rng, task, variables, memory, request: Request):
        if surrogate == "anchor":
            conditions.validate_replacement(request, None, process)
        choice_rng, draw_rng, loop_rng = jax.random.split(rng, 3)
        forgotten = jnp.asarray(conditions.forgotten(request, process))
        retained = jnp.asarray(conditions.retained(request, process))
        share = forgotten.shape[0] / retained.shape[0]
        sizes = num_images, max(1, round(num_images * share))
        parts = zip(jax.random.split(choice_rng), (retained, forgotten), sizes, strict=True)
        rows = [jax.random.choice(k, c.shape[0], (size,)) for k, c, size in parts]
        chosen = jnp.concatenate([retained[rows[0]], forgotten[rows[1]]])
        before = original(variables, request)
        drawn = diffusion.replay(task, before, draw_rng, chosen)
        weight = importances(task, before, drawn, importance, process.schedule.num_steps)
        penalty = objectives.l2_to_original(strength, weight)
        objective = remembering(process, replay_weight, penalty, surrogate)
        loop = descend(
            objective,
            tx,
            over="paired",
            num_steps=num_steps,
            batch_size=min(batch_size, num_images),
            labels=False,
            inputs=False,
        )
        if surrogate == "noise":
            forget = conditions.rows(forgotten, min(batch_size, num_images), start=sum(sizes))
            shape = forget["index"].shape[0], *process.shape
            forget["inputs"] = jnp.zeros(shape, drawn["inputs"].dtype)
        else:
            becomes = jnp.asarray(conditions.replaced(request.forget, None, process))[rows[1]]
            seen = diffusion.replay(task, before, jax.random.fold_in(draw_rng, 1), becomes)
            index = sum(sizes) + seen["index"]
            forget = {"inputs": seen["inputs"], "condition": forgotten[rows[1]], "index": index}
        replayed = {name: drawn[name][:num_images] for name in ("inputs", "condition", "index")}
        told = lambda data: {**data, "undropped": data["condition"]}
        request = request._replace(
            forget=told(forget),
            retain=told(replayed),
            original=before,
        )
        return loop.update(loop_rng, task, variables, memory, request)

    return Unlearner(init_nothing, update, frozenset({"forget", "retain"}))


def remembering(
    process: Process, replay_weight: float, penalty: objectives.Penalty, surrogate: str = "noise"
) -> objectives.Objective:
    """The objective of `selective_amnesia`, of rows with their condition in `undropped`, too.

    Whatever images forget rows have, with 'noise' that takes their place.
    """

    def undropped(task: Task, variables: Variables, teachers, batch: Batch, rng: Array) -> Batch:
        del task, variables, teachers, rng
        return {**batch, "condition": batch["undropped"]}

    def noise_images(task: Task, variables: Variables, teachers, batch: Batch, rng: Array) -> Batch:
        del task, variables, teachers
        noise = conditions.uniform(batch, rng, process.shape, process.clip)
        forget = objectives.member(batch, "forget").reshape(-1, 1, 1, 1) > 0
        inputs = jnp.where(forget, noise, batch["inputs"])
        return {**batch, "inputs": inputs, "condition": batch["undropped"]}

    return objectives.combine(
        forget=[(1.0, objectives.task_loss)],
        retain=[(replay_weight, objectives.task_loss)],
        penalty=penalty,
        train=True,
        prepare=noise_images if surrogate == "noise" else undropped,
    )


def importances(
    task: Task, variables: Variables, data: Data, importance: str, num_times: int
) -> PyTree:
    """A tree like the parameters, float32: how much a loss on `data` minds each one's change.

    Args:
      task, variables: a diffusion model.
      data: images with `condition` and `index`.
      importance: 'mean': squared gradients of the loss, averaged over images and over `num_draws`
        times and noises of each. 'summed': the square of an image's gradient summed over all times,
        of which those draws are a sample, averaged over images.
      num_times: T.
    """
    if importance == "summed":
        squares = curvature.fisher_diagonal(task, variables, data)
        return jax.tree.map(lambda f: num_times**2 * f, squares)
    once, size = task._replace(num_draws=1), data_lib.num_examples(data)

    def add(total: PyTree, number: Array):
        index = number * size + jnp.arange(size)
        squares = curvature.fisher_diagonal(once, variables, {**data, "index": index})
        return jax.tree.map(lambda t, f: t + f / task.num_draws, total, squares), None

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), variables["params"])
    return jax.lax.scan(add, zeros, jnp.arange(task.num_draws))[0]
