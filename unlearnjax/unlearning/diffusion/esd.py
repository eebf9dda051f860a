"""Erased stable diffusion: guidance away from a condition is moved into the weights.

Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023 (arXiv 2303.07345).
"""

import functools

import jax

from unlearnjax import checks, diffusion
from unlearnjax.diffusion.denoiser import Process, validate
from unlearnjax.types import Array, Batch, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend
from unlearnjax.unlearning.diffusion import conditions
from unlearnjax.unlearning.teachers import original_model

DRAWN_BY = ("student", "original")


def esd(
    tx: Transform,
    process: Process,
    *,
    eta: float = 1.0,
    guidance: float = 3.0,
    sample_steps: int = 50,
    bank: int | None = None,
    drawn_by: str = "student",
    num_steps: int = 1000,
    batch_size: int = 1,
) -> Unlearner:
    """Minimises `mean |e(x_t, t, c) - sg [o_0 - eta (o_c - o_0)]|^2`.

    o are the original's predictions of the same x_t under c and under the null condition, and x_t
    is what the present student is about to draw of c, so that no image is needed: guided DDIM from
    noise, stopped after a number of steps drawn anew for every update. In evaluation mode. The
    difference is taken in the network's own parametrisation, where the target is the same
    combination.

    The first published code asks for times anywhere between x_t's own and the next one's, we for
    its own. The present one draws x_t by the original ('original' here), with 200 updates by Adam
    5e-5; it counts from the conditional prediction, `o_c - 2 (o_c - o_0)`, which is `eta = 1` here.
    Both move parts of a network that reads prompts, ESD-x cross-attention alone and ESD-u the rest:
    here it is all of it, or what `confined` says, see `leaves`. In both c names the concept alone,
    which here is `alone.condition` of a forget set that has it: away from 'a three in neon style'
    were away from threes, too.

    Args:
      tx: optax transformation, or what makes one; Adam 1e-5 in the paper.
      process: the task's.
      eta: how far beyond the null condition's prediction.
      guidance: of the drawing, `e_0 + guidance (e_c - e_0)`.
      sample_steps: n, of DDIM.
      bank: cheaper: `bank` steps lead all the way to an image, and all of their (x_t, t) are rows
        of the batch, which holds several such runs; a divisor of `batch_size`. `None`: as
        published, all rows at the one time.
      drawn_by: whose x_t, 'student' or 'original'.
      num_steps: updates.
      batch_size: rows per update; 1 in the paper.

    Returns:
      An unlearner that needs the forget data's conditions alone, no images and no labels. Cost: of
      an update one gradient, two passes of the original, and for x_t twice `(n - 1) / 2` passes on
      average, or twice `bank - 1` of `batch_size / bank` rows.

    Raises:
      ValueError: for a value out of range, and at the request for an unknown condition or none.
    """
    checks.one_of(drawn_by=(drawn_by, DRAWN_BY))
    checks.finite(eta=eta, guidance=guidance)
    validate(process)
    steps = {"sample_steps": sample_steps} if bank is None else {"bank": bank}
    checks.whole(batch_size=batch_size, **steps)
    checks.within(1, process.schedule.num_steps, **steps)
    checks.at_least(1, batch_size=batch_size)
    if bank is not None and batch_size % bank:
        raise ValueError(f"bank must divide the batch_size of {batch_size}, got {bank}")
    loop = descend(
        erasing(process, eta, guidance, sample_steps, bank, drawn_by),
        tx,
        over="forget",
        num_steps=num_steps,
        batch_size=batch_size,
        teachers={"original": original_model},
        labels=False,
        inputs=False,
    )

    def update(rng, task, variables, memory, request: Request):
        request = conditions.alone(request)
        forget = conditions.rows(conditions.forgotten(request, process), batch_size)
        return loop.update(rng, task, variables, memory, request._replace(forget=forget))

    return loop._replace(update=update)


def erasing(
    process: Process,
    eta: float,
    guidance: float,
    sample_steps: int,
    bank: int | None,
    drawn_by: str,
) -> objectives.Objective:
    """The objective of `esd`, of rows of conditions; with a bank, of a whole number of runs."""
    steps = diffusion.ddim_steps(process, sample_steps if bank is None else bank)

    def drawing(task: Task, variables: Variables, teachers, batch: Batch, rng: Array) -> Batch:
        key_rng, count_rng = jax.random.split(rng)
        keys, condition = conditions.keys(batch, key_rng), batch["condition"]
        denoise = diffusion.guided(diffusion.denoiser(task), guidance, process.null)
        model = variables if drawn_by == "student" else teachers["original"]
        predict = functools.partial(denoise, model)
        if bank is None:
            start = diffusion.noise_of(keys, process.shape)
            count = jax.random.randint(count_rng, (), 0, sample_steps)
            noised, time = diffusion.sample_until(steps)(keys, predict, start, condition, count)
            drawn = {"noised": noised, "time": time}
        else:
            runs = condition.shape[0] // bank
            drawn = diffusion.bank(keys[:runs], predict, process.shape, condition[:runs], steps)
        blank = diffusion.null_like(condition, process.null)
        return {**batch, **drawn, "null.condition": blank}

    return objectives.combine(forget=[(1.0, away(eta))], views=("null",), prepare=drawing)


def away(eta: float) -> objectives.Term:
    """The divergence from `o_0 - eta (o_c - o_0)`, of the original's predictions; see `esd`.

    o_0 is that on the view 'null', o_c that on the example itself.
    """

    def term(task, outputs, batch, teachers):
        said = teachers["original"]
        null = said["null.prediction"]
        target = null - eta * (said["prediction"] - null)
        return task.divergence(outputs, {"prediction": target}, batch)

    return term
