"""PyTorch's part of the benchmarks computes what ours does. Skipped without torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.benchmarks import forgetting, problems, torch_models, torch_reference
from unlearnjax import attribution, curvature, training, unlearning
from unlearnjax.types import Request

pytestmark = pytest.mark.skipif(not torch_models.available(), reason="torch is not installed")
RESNET = {"stage_sizes": (1, 1), "width": 4}


@pytest.fixture(scope="module")
def resnet():
    """A ResNet in which nothing is 0 or 1, and images."""
    shape = (8, 8, 3)
    data, task = problems.images(12, shape), problems.task("resnet18", **RESNET)
    leaves, treedef = jax.tree.flatten(task.init(jax.random.key(0), data))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.3 * jax.random.uniform(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return shape, data, task, treedef.unflatten(moved)


def assert_equal(tensors, variables, shape, tolerance=1e-4):
    """Compares with the parameters of the same network with these ones."""
    net = torch_models.network("resnet18", shape, variables, **RESNET)
    for tensor, expected in zip(tensors, net.parameters(), strict=True):
        expected = expected.detach().numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(tensor.detach().numpy(), expected, atol=tolerance * scale)


def test_the_residual_network_is_ours(resnet):
    shape, data, task, variables = resnet
    net = torch_models.network("resnet18", shape, variables, **RESNET)
    expected = task.apply(variables, data, None, False)[0]["logits"]
    logits = net(torch_models.tensors(data)[0]).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    exact = curvature.fisher_diagonal(task, variables, data)
    importances = {**variables, "params": exact}
    assert_equal(torch_reference.fisher_vmap(net, data, 4)(), importances, shape, 1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_of_the_residual_network_is_ours(resnet, dtype):
    """In training mode: an epoch of one batch, in which the order does not matter."""
    shape, data, task, variables = resnet
    net = torch_models.network("resnet18", shape, variables, **RESNET)
    student = torch_reference.epoch(net, data, 12, 0.1, dtype)()
    step = training.make_step(training.supervised(task), optax.sgd(0.1))
    state = training.init_state(variables, optax.sgd(0.1))
    trained = jax.jit(step)(state, {**data, "weight": jnp.ones(12)}, jax.random.key(0))[0]
    exact = dtype == "float32"
    assert_equal(student.parameters(), trained.variables, shape, 1e-3 if exact else 5e-2)
    if not exact:
        with pytest.raises(AssertionError):  # rounded indeed
            assert_equal(student.parameters(), trained.variables, shape, 1e-4)
    mean = trained.variables["batch_stats"]["BatchNorm_0"]["mean"]
    found = student.BatchNorm_0.running_mean.numpy()
    np.testing.assert_allclose(found, mean, rtol=1e-3 if exact else 5e-2, atol=1e-3)
    assert student.training and not net.training


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_torch_computes_what_we_compute(model):
    """The importances, exact and not, and what SSD makes of them."""
    shape, size = (8, 8, 1), 16
    data, task = problems.images(48, shape), problems.task(model)
    forget = problems.part(data, slice(16))
    variables = task.init(jax.random.key(0), data)
    net = torch_models.network(model, shape, variables)

    def assert_same(tensors, params):
        net = torch_models.network(model, shape, {"params": params})
        for tensor, expected in zip(tensors, net.parameters(), strict=True):
            expected = expected.detach().numpy()
            scale = np.abs(expected).max()
            np.testing.assert_allclose(tensor.detach().numpy(), expected, atol=1e-4 * scale)

    exact = curvature.fisher_diagonal(task, variables, data)
    assert_same(torch_reference.fisher_exact(net, data)(), exact)
    assert_same(torch_reference.fisher_vmap(net, data, size)(), exact)
    batch = curvature.batch_gradient_squared(task, variables, data, batch_size=size)
    assert_same(torch_reference.fisher_batch(net, data, size)(), batch)
    method = unlearning.ssd(1.5, 0.5, importance="batch", batch_size=size)
    _, memory = method.init(None, task, variables, data)
    damped, _ = method.update(None, task, variables, memory, Request(forget=forget))
    call = torch_reference.ssd(net, data, forget, size, 1.5, 0.5)
    assert_same(call().parameters(), damped["params"])


def test_projected_gradients_keep_inner_products_in_torch_as_here():
    shape = (8, 8, 1)
    data, task = problems.images(12, shape), problems.task("mlp")
    variables = task.init(jax.random.key(0), data)
    net = torch_models.network("mlp", shape, variables)
    ours = attribution.project_gradients(
        task, variables, data, jax.random.key(1), num_projections=4096
    )[:, 0]
    for block in (None, 1000):
        theirs = torch_reference.project_gradients(net, data, 4096, 6, block)().numpy()
        scale = np.linalg.norm(ours, axis=1).mean() ** 2
        np.testing.assert_allclose(theirs @ theirs.T, ours @ ours.T, atol=0.12 * scale)


def test_torch_trains_and_forgets():
    shape = (8, 8, 1)
    data = problems.images(40, shape)
    forget, retain = problems.part(data, slice(8)), problems.part(data, slice(8, None))
    net = torch_models.network("convnet", shape)
    before = [p.detach().clone() for p in net.parameters()]
    scrubbed = torch_reference.scrub(net, forget, retain, 8, 1e-3, **forgetting.SCRUB)()
    ascended = torch_reference.ascent_plus(net, forget, retain, 8, 1e-3, 0.9)()
    trained = torch_reference.epoch(net, data, 8, 0.1)()
    for other in (scrubbed, ascended, trained):
        assert all((a != b).any() for a, b in zip(before, other.parameters(), strict=True))


def test_what_users_tune_on_a_gpu_is_left_alone_on_a_cpu():
    assert torch_models.device().type == "cpu"
    before = torch_models.torch.backends.cudnn.benchmark
    torch_models.configure()
    torch_models.release()
    assert torch_models.torch.backends.cudnn.benchmark == before
    assert "threads" in torch_models.version()
