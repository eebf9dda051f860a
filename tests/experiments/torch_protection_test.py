import jax
import numpy as np
import pytest

pytest.importorskip("torch")

from experiments.benchmarks import problems, torch_models, torch_protection
from experiments.benchmarks import protection as benchmark
from unlearnjax import protection

pytestmark = pytest.mark.slow


def test_both_ways_filter_as_ours():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(7, 6, 5, 3)).astype(np.float32)
    targets = np.array([0, 2, 2, 1, 0, 2, 2])
    filters = protection.draw_filters(jax.random.key(0), 4, kernel_size=3)
    expected = protection.filtered(images, filters[targets])
    for build in (torch_protection.by_class, torch_protection.by_image):
        theirs = build(images, targets, np.asarray(filters))()
        np.testing.assert_allclose(theirs.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


def test_a_step_of_adversarial_training_is_ours():
    problem = problems.problem("mlp", 8)
    state, _ = benchmark.adversarial_step(problem, 3)()
    net = torch_models.network("mlp", problem.shape, problem.variables)
    options = {"radius": benchmark.RADIUS, "num_steps": 3, "rate": benchmark.RATE}
    theirs = torch_protection.adversarial_step(net, problem.data, **options)()
    ours = torch_models.network("mlp", problem.shape, state.variables)
    for a, b in zip(theirs, ours.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), atol=1e-4)
