"""Score forgetting distillation: a generator of one step in which one condition becomes another.

Chen, Zhang, Zhou, "Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning
in Diffusion Models", ICLR 2025 (arXiv 2409.11219), on the distillation of Zhou et al., "Score
identity Distillation", ICML 2024 (arXiv 2404.04057).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import optax

from unlearnjax import checks, training
from unlearnjax.diffusion import Process
from unlearnjax.types import Array, Batch, PyTree, Request, Task, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.diffusion import conditions, distillation
from unlearnjax.unlearning.parts import run_parts


class ScoreForgettingMemory(NamedTuple):
    """What one request leaves to the next.

    Attributes:
      true: parameters of the model that was distilled, whose scores are the true ones.
      state: of both players, `params` being `{'generator', 'fake_score'}`.
    """

    true: PyTree
    state: training.TrainState


def score_forgetting(
    tx: optax.GradientTransformation,
    process: Process,
    *,
    anchor: int | None = None,
    retain_weight: float = 1.0,
    forget_weight: float = 0.01,
    alpha: float = 1.2,
    score_rate: float = 1.0,
    clip: float = 1.0,
    decay: float = 0.9999,
    t_init: int | None = None,
    t_min: int | None = None,
    t_max: int | None = None,
    num_steps: int = 50_000,
    distil_steps: int = 0,
    batch_size: int = 128,
) -> Unlearner:
    """Distils the model into a generator of one step that draws `anchor` for what is forgotten.

    Three networks start as the model: the true score phi, which stays, a fake score psi, and the
    generator, `g(z, c)` being its prediction of x_0 at the time `t_init` of noise alone. Every step
    moves psi to be the score of what the generator draws, by the task's loss, and then the
    generator by `distillation.sid_loss`: the scores of its images are brought from psi(c) to phi(c)
    for retained conditions c, and from psi(c) to phi(anchor) for forgotten ones. Conditions alone
    are needed: no image is read. The generator's average is deployed; `serve` makes a task that
    draws by it, in one pass and without guidance.

    As in the authors' code: dropout acts in the network that moves alone, no condition is dropped,
    each network draws times and noise of its own, gradients are clipped by value, Adam(0, 0.999).
    It sums losses over pixels, and clips the gradients of sums; our losses are means, and what is
    clipped is the gradient times the number of pixels. Its psi learns in noise, ours in the
    network's own parametrisation.

    With `distil_steps`, `init` distils the model first, without a word of what will be forgotten,
    and a request goes on from there (the published second variant: `score_rate` 3); a stream of
    requests goes on in any case.

    Args:
      tx: optax transformation, one for each of both; published is Adam 1e-5 with b1 = 0.
      process: the task's.
      anchor: what forgotten conditions become; `None` is each one's next.
      retain_weight, forget_weight: of either part in both losses, >= 0 and not both 0.
      alpha: of `distillation.sid_loss`, > 0; 1.2 on CIFAR-10.
      score_rate: updates of psi, by the same transformation, are so many times as large, > 0.
      clip: bound of each entry of the gradients, > 0; infinity is none.
      decay: of the generator's exponential average, in [0, 1].
      t_init: k, in 0..T-1; `None` is the time with as much noise as 440 of the linear schedule has.
      t_min, t_max: scores are compared at times in `[t_min, t_max)`; `None` likewise 38, 712.
      num_steps: updates of either network per request.
      distil_steps: of either network at `init`.
      batch_size: of retained and of forgotten conditions, each, per step.

    Returns:
      An unlearner that needs the conditions of forget and retain data, no images and no labels. Its
      memory holds the model, both networks, the generator's average and the optimizers' states.
      Cost of a step: two batches through the generator, then psi and back; the same through the
      generator, phi and psi and back.

    Raises:
      ValueError: for a value out of range, and at the request for an unknown condition or none,
        and a forgotten one that is among the anchors.
    """
    conditions.validate_anchor(anchor, process)
    checks.whole(**{"the process's null (of classes, prompts are not forgotten so)": process.null})
    checks.finite(retain_weight=retain_weight, forget_weight=forget_weight)
    checks.finite(alpha=alpha, score_rate=score_rate)
    checks.at_least(0, retain_weight=retain_weight, forget_weight=forget_weight)
    checks.positive(**{"retain_weight + forget_weight": retain_weight + forget_weight})
    checks.positive(alpha=alpha, score_rate=score_rate, clip=clip)
    checks.share(decay=decay)
    checks.whole(num_steps=num_steps, distil_steps=distil_steps, batch_size=batch_size)
    checks.at_least(1, num_steps=num_steps, batch_size=batch_size)
    checks.at_least(0, distil_steps=distil_steps)
    times = distillation.times_of(process, t_init, t_min, t_max)
    weights = {
        "retain": [(retain_weight, objectives.task_loss)],
        "forget": [(forget_weight, objectives.task_loss)],
    }
    objective = objectives.combine(parts=weights, train=True)
    clipped = optax.chain(optax.clip(clip / math.prod(process.shape)), tx)

    def players(task: Task, true: PyTree) -> dict[str, training.Player]:
        scoring = distillation.fake_score_task(task, process, times)
        drawing = distillation.generator_task(task, process, times, true, alpha)
        faster = optax.chain(clipped, optax.scale(score_rate))
        averaged = training.averaged(clipped, decay=decay)
        return {
            "fake_score": training.Player(objective(scoring, {}), faster),
            "generator": training.Player(objective(drawing, {}), averaged),
        }

    def run(rng, task, memory, parts, num_steps):
        both = players(task, memory.true)
        state, _ = run_parts(
            training.alternate(both),
            memory.state,
            rng,
            parts,
            over="paired",
            along="retain",
            batch_size=batch_size,
            num_steps=num_steps,
        )
        params = training.deploy_players(state, both)["params"]["generator"]
        return {**state.variables, "params": params}, memory._replace(state=state)

    def init(rng, task, variables, data):
        del data
        true = variables["params"]
        start = {**variables, "params": {"fake_score": true, "generator": true}}
        state = training.init_players(start, players(task, true))
        memory = ScoreForgettingMemory(true, state)
        if not distil_steps:
            return variables, memory
        every = conditions.rows(jnp.arange(process.null, dtype=jnp.int32), batch_size)
        return run(rng, task, memory, {"retain": _to(every["condition"], every)}, distil_steps)

    def update(rng, task, variables, memory, request: Request):
        del variables
        conditions.validate_request(request, anchor, process)
        forgotten = conditions.forgotten(request, process)
        retain = conditions.rows(conditions.retained(request, process), batch_size)
        forget = conditions.rows(forgotten, batch_size, start=retain["index"].shape[0])
        becomes = conditions.replaced(forget, anchor, process)
        parts = {"forget": _to(becomes, forget), "retain": _to(retain["condition"], retain)}
        # Epochs and keys follow from the count of steps, which begins anew with every request.
        memory = memory._replace(state=memory.state._replace(step=jnp.zeros((), jnp.int32)))
        return run(rng, task, memory, parts, num_steps)

    serve = lambda task: distillation.one_step_task(task, process, times.init)
    return Unlearner(init, update, frozenset({"forget", "retain"}), serve)


def _to(becomes: Array, data: Batch) -> Batch:
    return {**data, "anchor.condition": becomes}
