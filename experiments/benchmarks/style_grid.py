"""Erasing a style from a model that reads prompts: an answer set, updates of ESD, the solve of UCE.

Against one prompt after another, against ESD as published, and against NumPy, layer by layer.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import timing
from unlearnjax import audit, diffusion, models, tasks, trees, unlearning
from unlearnjax.data import captions, style_grid
from unlearnjax.types import Request, Task, Unlearner, Variables

GUIDANCE, RATE = 2.0, 1e-4
ERASE_WEIGHT, PRESERVE_WEIGHT, RIDGE = 0.05, 0.1, 1.0


class Problem(NamedTuple):
    """A fresh denoiser, the prompts of a grid `[S, O, L]`, and a request to forget its last style.

    Attributes:
      module, process, task, variables: the model.
      prompts: by style and object.
      request: of prompts alone.
    """

    module: models.TextDiT
    process: diffusion.Process
    task: Task
    variables: Variables
    prompts: np.ndarray
    request: Request


def run(
    per_cell: int = 4,
    num_steps: int = 25,
    bank: int = 15,
    updates: int = 4,
    side: int = 8,
    options: Mapping[str, Any] = MappingProxyType({}),
    repeats: int = 3,
):
    """Yields the answer set, ESD and UCE, on the grid of digits in six styles.

    Args:
      per_cell: images of each of the 60 prompts.
      num_steps: of guided DDIM; ESD as published takes twice as many.
      bank: rows of an update of ESD: of one run, or each of a run of its own.
      updates: of ESD.
      side: pixels of images.
      options: of the denoiser.
    """
    made = problem(side, num_steps, options)
    number = per_cell * made.prompts[..., 0].size
    text = f"{number} images, {num_steps} guided steps"
    calls = answers(made, per_cell)
    yield timing.compare("answers", text, calls, repeats, counts={"images": number})
    calls = {
        name: updating(made, unlearning.esd(optax.adam(RATE), made.process, **own))
        for name, own in (
            ("bank", {"bank": bank, "num_steps": updates, "batch_size": bank}),
            (
                "as published",
                {"sample_steps": 2 * num_steps, "num_steps": updates, "batch_size": bank},
            ),
        )
    }
    counts = {"updates": updates}
    yield timing.compare("esd", f"{updates} updates of {bank} rows", calls, repeats, counts=counts)
    calls = editing(made)
    stored = audit.stored_bytes(made.variables["params"], calls["ours"]())
    share = stored / trees.nbytes(made.variables["params"])
    kernels = 2 * made.module.depth
    text = f"{kernels} kernels, {stored / 1e6:.3g} MB are stored of an erased style"
    record = timing.compare("uce", text, calls, repeats)
    yield record | {"stored_bytes": {"ours": stored}, "stored_share": {"ours": share}}


def problem(side: int, num_steps: int, options: Mapping[str, Any]) -> Problem:
    """The grid of digits, and a network that starts as anything but 0."""
    styles, objects = style_grid.DIGIT_STYLES, style_grid.DIGITS
    vocabulary = captions.vocabulary(styles, objects)
    encoder = models.TextEncoder(len(vocabulary.words), length=vocabulary.length)
    module = models.TextDiT(encoder, **options)
    process = diffusion.Process(diffusion.cosine(), (side, side, 3), vocabulary.empty)
    model = tasks.from_linen(module, ("noised", "time", "condition"))
    sampler = diffusion.ddim(process, num_steps)
    task = tasks.diffusion(model, process, sampler=sampler, guidance=GUIDANCE)
    start = jax.jit(task.init)(jax.random.key(0), {"index": jnp.arange(1)})
    # Not by one number: what is equal in all channels the norms take away, and with it the text.
    waves = lambda x: 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    variables = jax.tree.map(lambda x: x + waves(x), start)
    filled = captions.prompts(vocabulary, styles, objects, (captions.BENCHMARK,))
    prompts, named = filled.tokens[:, :, 0], filled.style[:, :, 0].astype(np.int32)
    forget = {
        "condition": prompts[-1],
        "anchor.condition": prompts[0],
        "concept": named[-1],
        "anchor.concept": named[0],
        "index": np.arange(len(objects)),
    }
    kept = prompts[:-1].reshape(-1, vocabulary.length)
    request = Request(forget, {"condition": kept, "index": np.arange(len(kept))})
    return Problem(module, process, task, variables, prompts, request)


def answers(made: Problem, per_cell: int) -> dict:
    """All images as one program, and one program after another for each prompt."""
    rng, prompts = jax.random.key(1), made.prompts.reshape(-1, made.prompts.shape[-1])

    def draw(variables, prompts):
        return diffusion.answer_set(made.task, variables, rng, prompts, per_cell)

    one = timing.program(draw, made.variables, jnp.asarray(prompts[:1])).call

    def loop():
        return np.concatenate([one(made.variables, jnp.asarray(row[None])) for row in prompts])

    every = timing.program(draw, made.variables, jnp.asarray(prompts))
    return {"ours": every, "prompt by prompt": loop}


def updating(made: Problem, unlearner: Unlearner) -> timing.Program:
    """The parameters after the request."""

    def update(variables: Variables, request: Request):
        rng = jax.random.key(2)
        return unlearner.update(rng, made.task, variables, None, request)[0]["params"]

    return timing.program(update, made.variables, jax.tree.map(jnp.asarray, made.request))


def editing(made: Problem) -> dict:
    """UCE, from the prompts to the kernels."""
    weights = {"erase_weight": ERASE_WEIGHT, "preserve_weight": PRESERVE_WEIGHT, "ridge": RIDGE}
    ours = updating(made, unlearning.uce(made.process, **weights))
    encoder = {"params": made.variables["params"]["text_encoder"]}
    encode = jax.jit(made.module.text_encoder.apply)
    forget, kept = made.request.forget, made.request.retain["condition"]
    kept = np.concatenate([[made.process.null], kept])
    host = jax.tree.map(np.asarray, made.variables["params"])

    def numpy():
        """In double precision, kernel by kernel, as the authors' code goes through the layers."""
        hidden = lambda prompts: np.asarray(encode(encoder, prompts)["hidden"], np.float64)
        gone, anchors = hidden(forget["condition"]), hidden(forget["anchor.condition"])
        last = lambda mask: mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        firsts = zip(last(forget["concept"]), last(forget["anchor.concept"]), strict=True)
        own, becomes = [], []
        for row, starts in enumerate(firsts):
            count = gone.shape[1] - max(starts)
            for found, of, first in ((own, gone, starts[0]), (becomes, anchors, starts[1])):
                found.append(of[row, first : first + count])
        own, becomes = np.concatenate(own), np.concatenate(becomes)
        others = hidden(kept).reshape(-1, own.shape[1])
        edited = {}
        for name, block in host["denoiser"].items():
            for layer in ("key", "value") if "cross" in block else ():
                kernel = block["cross"][layer]["kernel"].astype(np.float64)
                left = RIDGE * np.eye(len(kernel)) + ERASE_WEIGHT * own.T @ own
                left += PRESERVE_WEIGHT * others.T @ others
                right = RIDGE * kernel + ERASE_WEIGHT * own.T @ becomes @ kernel
                right += PRESERVE_WEIGHT * others.T @ others @ kernel
                edited[name, layer] = np.linalg.solve(left, right).astype(np.float32)
        return edited

    return {"ours": ours, "numpy": numpy}
