"""PyTorch's part of the diffusion benchmark computes what ours does. Skipped without torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.benchmarks import diffusion as benchmark
from experiments.benchmarks import torch_diffusion, torch_models
from tests import frameworks
from unlearnjax import diffusion, tasks, training

pytestmark = pytest.mark.skipif(not torch_models.available(), reason="torch is not installed")
CASES = {
    "dit": {"model": "dit", "shape": (4, 6, 2), "batch": 3, "options": {"width": 8, "depth": 2}},
    "unet": {
        "model": "unet",
        "shape": (8, 8, 2),
        "batch": 3,
        "options": {"width": 4, "multiples": (1, 2), "num_blocks": 1, "attention": (4,)},
    },
}


@pytest.fixture(scope="module", params=CASES)
def made(request):
    """A network in which nothing is 0 by its start, and a drawn batch; no dropout."""
    case = CASES[request.param]
    dropless = {"dropout": 0.0} if request.param == "unet" else {}
    case = {**case, "options": {**case["options"], **dropless}}
    made = benchmark.problem(case)
    params = jax.jit(lambda p: frameworks.shaken(p, 0.1))(made.variables["params"])
    return made._replace(variables={"params": params})


def network(made):
    """The benchmark's, told the resolution of these images."""
    side = {"side": made.process.shape[0]} if made.model == "unet" else {}
    options = {**made.options, **side}
    return torch_diffusion.network(made.model, 2, 10, made.variables, **options)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_step_is_ours(made, prediction):
    process = made.process._replace(prediction=prediction)
    task = tasks.diffusion(made.task, process)
    batch = tasks.drawn(task, {name: value[:3] for name, value in made.data.items()})
    net = network(made)
    loss = torch_diffusion.loss(
        net,
        process,
        torch_diffusion.alphas(process),
        torch_diffusion.images(batch["inputs"]),
        torch_diffusion.images(batch["noise"]),
        torch_diffusion.labels(batch["time"]),
        torch_diffusion.labels(batch["condition"]),
    )

    def ours(params):
        outputs, _ = task.apply({"params": params}, batch, None, False)
        return task.loss(outputs, batch).mean()

    expected, gradient = jax.jit(jax.value_and_grad(ours))(made.variables["params"])
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-4)
    loss.backward()
    like = network(made._replace(variables={"params": gradient}))
    for theirs, own in zip(net.parameters(), like.parameters(), strict=True):
        own = own.detach().numpy()
        scale = np.abs(own).max() + 1e-6
        np.testing.assert_allclose(theirs.grad.numpy() / scale, own / scale, atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_guided_samples_are_ours(made, prediction):
    process = made.process._replace(prediction=prediction)
    keys = jax.random.split(jax.random.key(5), 3)
    start = diffusion.noise_of(keys, process.shape)
    condition = jnp.array([1, 9, 4])
    task = tasks.diffusion(made.task, process)
    denoise = diffusion.guided(diffusion.denoiser(task), 2.0, 10)
    predict = functools.partial(denoise, made.variables)
    sampler = diffusion.ddim(process, 4)
    expected = jax.jit(lambda x: sampler(keys, predict, x, condition))(start)
    given = start, condition, 4, 2.0, 2
    images = torch_diffusion.guided_ddim(network(made), process, *given)()
    np.testing.assert_allclose(images.permute(0, 2, 3, 1), expected, atol=5e-3)


def test_training_moves_the_copy_by_adam(made):
    net = network(made)
    before = [p.clone() for p in net.parameters()]
    batch = {name: value[:3] for name, value in made.data.items()}
    step = torch_diffusion.training_step(net, made.process, batch, 1e-2)
    losses = [step().item() for _ in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all((a == b).all() for a, b in zip(before, net.parameters(), strict=True))
    # As ours does, from the same start and at the same rate.
    indices = jnp.arange(3)
    fit = functools.partial(training.train, made.task, optax.adam(1e-2), batch, indices)
    _, history = jax.jit(lambda k: fit(k, num_epochs=30, batch_size=3, start=made.variables))(
        jax.random.key(0)
    )
    ours = np.asarray(history["loss"])
    np.testing.assert_allclose(ours[-5:].mean(), np.mean(losses[-5:]), rtol=0.5)
