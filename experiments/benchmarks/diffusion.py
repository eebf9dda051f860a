"""Diffusion: a training step, guided sampling as one program, and oracles trained together.

Against PyTorch, against a loop in Python over compiled steps, and against one after another.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import ensemble, problems, timing, torch_diffusion, torch_models
from unlearnjax import diffusion, models, tasks, training
from unlearnjax.training import ensembles
from unlearnjax.types import Task, Variables

RATE, GUIDANCE = 1e-3, 2.0


class Problem(NamedTuple):
    """A fresh denoising network, and random images in ten classes."""

    model: str
    options: Mapping[str, Any]
    process: diffusion.Process
    task: Task
    data: dict[str, jax.Array]
    variables: Variables


def run(
    cases: Mapping[str, Mapping],
    images: int = 0,
    num_steps: int = 25,
    chunk: int = 256,
    oracles: int = 0,
    train: bool = True,
    dtype: str = "float32",
    repeats: int = 3,
):
    """Yields for each case a training step, sampling and an ensemble, of those that are asked for.

    Args:
      cases: name -> `{'model', 'shape', 'batch'}`, and 'options' of the model.
      images: to be sampled; 0 leaves it out.
      num_steps: of guided DDIM.
      chunk: images at a time.
      oracles: trained together, four epochs of two batches each; 0 leaves it out.
      train: whether a training step is measured.
      dtype: what is computed in; parameters are float32.
    """
    for name, case in cases.items():
        made = problem(case, dtype, num_steps)
        in_type = "" if dtype == "float32" else f", {dtype}"
        if train:
            yield step(made, f"{name}, batch of {case['batch']}{in_type}", case, dtype, repeats)
        if images:
            text = f"{images} images, {name}, {num_steps} guided steps{in_type}"
            calls = sampling(made, images, num_steps, chunk, dtype)
            yield timing.compare("sample", text, calls, repeats, dtype, {"images": images})
        if oracles:
            text = f"{oracles} x {name}, 4 epochs of {2 * case['batch']} images"
            calls = together(made, oracles, case["batch"])
            counts = {"models": oracles}
            yield timing.compare("oracles", text, calls, repeats, dtype, counts, models=oracles)


def problem(case: Mapping, dtype: str = "float32", num_steps: int = 25) -> Problem:
    """The network of a case, sampled in `num_steps`, and data for four batches."""
    options = case.get("options", {})
    computes = {} if dtype == "float32" else {"dtype": jnp.dtype(dtype)}
    module = models.by_name(case["model"], num_classes=10, **options, **computes)
    process = diffusion.Process(diffusion.cosine(), tuple(case["shape"]), 10)
    model = tasks.from_linen(module, ("noised", "time", "condition"))
    sampler = diffusion.ddim(process, num_steps)
    task = tasks.diffusion(model, process, sampler=sampler, guidance=GUIDANCE)
    data = problems.images(4 * case["batch"], case["shape"])
    data = {**data, "inputs": jnp.clip(data["inputs"], -1, 1), "condition": data["targets"]}
    variables = jax.jit(task.init)(jax.random.key(0), problems.part(data, slice(1)))
    return Problem(case["model"], options, process, task, data, variables)


def step(made: Problem, text: str, case: Mapping, dtype: str, repeats: int) -> dict[str, Any]:
    """The record of a training step by Adam: time, and bytes at the peak."""
    tx = optax.adam(RATE)
    batch = problems.part(made.data, slice(case["batch"]))
    state = training.init_state(made.variables, tx)
    weighted = {**batch, "weight": jnp.ones(case["batch"])}
    one = training.make_step(training.supervised(made.task), tx)
    calls = {"ours": timing.program(one, state, weighted, jax.random.key(0))}
    if torch_models.available():
        calls["torch"] = torch_diffusion.training_step(
            network(made), made.process, batch, RATE, dtype=dtype
        )
    counts = {"images": case["batch"]}
    record = timing.compare("denoise", text, calls, repeats, dtype, counts, batch=case["batch"])
    if torch_models.available():
        record["peak_bytes"]["torch"] = torch_peak(case, dtype)
    return record


def sampling(made: Problem, images: int, num_steps: int, chunk: int, dtype: str) -> dict:
    """All images as one program, and two loops over steps."""
    rows = {"condition": jnp.arange(images) % 10, "index": jnp.arange(images)}
    rng = jax.random.key(1)
    draw = functools.partial(diffusion.draw_images, made.task, batch_size=chunk)
    calls = {"ours": timing.program(draw, made.variables, rng, rows)}

    steps = diffusion.ddim_steps(made.process, num_steps)
    denoise = diffusion.guided(diffusion.denoiser(made.task), GUIDANCE, made.process.null)

    @jax.jit
    def one(variables, x, condition, i):
        return steps.step(None, functools.partial(denoise, variables), x, condition, i)

    keys = tasks.keyed(rows, rng)["key"]
    start = jax.jit(lambda k: diffusion.noise_of(k, made.process.shape))(keys)

    def loop():
        parts = []
        for first in range(0, images, chunk):
            x, condition = start[first : first + chunk], rows["condition"][first : first + chunk]
            for i in range(num_steps):
                x = one(made.variables, x, condition, i)
            parts.append(np.asarray(x))
        return np.concatenate(parts)

    calls["python loop"] = loop
    if torch_models.available():
        given = start, rows["condition"], num_steps, GUIDANCE, chunk, dtype
        calls["torch"] = torch_diffusion.guided_ddim(network(made), made.process, *given)
    return calls


def together(made: Problem, count: int, batch_size: int) -> dict:
    """As many models, each on its half of the images, by both axes and in turns."""
    subsets = ensembles.random_subsets(jax.random.key(2), count, len(made.data["targets"]))
    rngs = jax.random.split(jax.random.key(3), count)
    options = {"num_epochs": 4, "batch_size": batch_size}
    return ensemble.ways(made.task, optax.adam(RATE), made.data, subsets, rngs, options)


def network(made: Problem):
    """The same in PyTorch."""
    channels, variables = made.process.shape[-1], made.variables
    return torch_diffusion.network(
        made.model, channels, made.process.null, variables, **made.options
    )


def torch_peak(case: Mapping, dtype: str) -> int:
    """Bytes that a step of PyTorch takes at its peak: parameters, Adam's state and activations.

    On a CPU of a process of its own, beside what a step of next to nothing has left there.
    """
    if torch_models.device().type == "cuda":
        torch_models.release()
        before = torch_models.peak_bytes(reset=True)
        _one_step(case, dtype)
        return torch_models.peak_bytes() - before
    command = [sys.executable, "-m", "experiments.benchmarks.diffusion"]
    given = json.dumps([{**case, "options": dict(case.get("options", {}))}, dtype])
    result = subprocess.run([*command, given], capture_output=True, text=True, check=True)
    return int(result.stdout.splitlines()[-1])


def _one_step(case: Mapping, dtype: str) -> None:
    """Of fresh parameters."""
    process = diffusion.Process(diffusion.cosine(), tuple(case["shape"]), 10)
    rng = np.random.default_rng(0)
    data = {
        "inputs": rng.standard_normal((case["batch"], *case["shape"]), np.float32),
        "condition": rng.integers(0, 10, case["batch"]),
    }
    options = case.get("options", {})
    net = torch_diffusion.network(case["model"], case["shape"][-1], 10, **options)
    torch_diffusion.training_step(net, process, data, RATE, dtype=dtype)()


def _beside(case: Mapping, dtype: str) -> int:
    """Bytes of this process at its peak, beside those of a step on one image of a small network."""
    small = {"model": "dit", "shape": (4, 4, 1), "batch": 1, "options": {"width": 8, "depth": 1}}
    _one_step(small, dtype)
    before = timing.host_bytes("VmRSS")
    _one_step(case, dtype)
    return timing.host_bytes("VmHWM") - before


if __name__ == "__main__":
    print(_beside(*json.loads(sys.argv[1])))
