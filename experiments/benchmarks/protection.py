"""Protecting images by filters of their classes, and adversarial training, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import problems, timing, torch_models, torch_protection
from unlearnjax import protection, training

RATE, RADIUS = 0.1, 0.1


def run(
    images: int = 10_000,
    shape: tuple[int, int, int] = problems.CIFAR,
    num_classes: int = 10,
    kernel_size: int = 3,
    sample: int = 500,
    models: tuple[str, ...] = ("mlp", "convnet"),
    batch_size: int = 100,
    num_steps: int = 10,
    repeats: int = 3,
):
    """Yields filtering so many images, then a step of adversarial training of every model.

    Args:
      images, shape, num_classes, kernel_size: of what is filtered.
      sample: images that PyTorch filters one by one; the time is scaled to all.
      models: that are trained.
      batch_size, num_steps: of a step, and of the attack in it.
    """
    rng = np.random.default_rng(0)
    pixels = rng.uniform(size=(images, *shape)).astype(np.float32)
    targets = rng.integers(num_classes, size=images).astype(np.int32)
    filters = protection.draw_filters(jax.random.key(0), num_classes, kernel_size=kernel_size)
    ours = lambda x, y, filters: protection.filtered(x, filters[y])
    calls = {"ours": timing.program(ours, jnp.asarray(pixels), jnp.asarray(targets), filters)}
    if torch_models.available():
        few = slice(min(sample, images))
        calls["torch"] = torch_protection.by_class(pixels, targets, np.asarray(filters))
        one_by_one = torch_protection.by_image(pixels[few], targets[few], np.asarray(filters))
        calls["torch, one by one"] = timing.Sample(one_by_one, min(sample, images) / images)
    case = f"{images} images, {num_classes} filters of {kernel_size}x{kernel_size}"
    yield timing.compare("protect", case, calls, repeats, counts={"images": images})
    for model in models:
        problem = problems.problem(model, batch_size)
        calls = {"ours": adversarial_step(problem, num_steps)}
        if torch_models.available():
            net = torch_models.network(model, problem.shape, problem.variables)
            options = {"radius": RADIUS, "num_steps": num_steps, "rate": RATE}
            calls["torch"] = torch_protection.adversarial_step(net, problem.data, **options)
        case = f"{model}, batch of {batch_size}, {num_steps} steps"
        yield timing.compare(
            "adversarial step",
            case,
            calls,
            repeats,
            counts={"images": batch_size},
            batch=batch_size,
        )


def adversarial_step(problem: problems.Problem, num_steps: int) -> timing.Program:
    """A step on attacked inputs."""
    tx = optax.sgd(RATE)
    attack = training.pgd(problem.task, radius=RADIUS, num_steps=num_steps)
    loss_fn = training.perturbed(training.supervised(problem.task), attack)
    state = training.init_state(problem.variables, tx)
    batch = {**problem.data, "weight": jnp.ones(len(problem.data["targets"]))}
    step = training.make_step(loss_fn, tx)
    return timing.program(step, state, batch, jax.random.key(0))
