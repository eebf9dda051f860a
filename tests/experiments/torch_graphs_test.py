import jax
import numpy as np
import optax
import pytest
import scipy.sparse

pytest.importorskip("torch")

from experiments.benchmarks import graphs as benchmark
from experiments.benchmarks import torch_graphs
from tests import networks, problems
from unlearnjax import training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]


def test_the_reference_learns_as_ours():
    task, data = networks.task(), {k: v[:8] for k, v in networks.data().items()}
    start = {"graph": networks.small()}
    variables = training.init_variables(task, data, jax.random.key(0), start)
    ours = training.fit(
        training.descent(task, optax.adam(0.05)), data, np.arange(8), jax.random.key(1),
        num_epochs=3, batch_size=8, start=variables,
    )[0]["params"]  # fmt: skip
    features = scipy.sparse.csr_matrix(networks.features())
    adjacency = benchmark._normalised(networks.EDGES, networks.N)
    np.testing.assert_allclose(adjacency.toarray(), networks.normalised(networks.EDGES))
    call = torch_graphs.training(
        variables["params"], features, adjacency, data["targets"],
        num_epochs=3, rate=0.05, dropout=0.0,
    )  # fmt: skip
    theirs = iter(x.detach().numpy() for x in call())
    found = {
        name: {"Linear_0": {"kernel": next(theirs)}, "bias": next(theirs)}
        for name in ("layer_0", "layer_1")
    }
    problems.assert_trees_close(found, ours, 1e-4)
    assert len(torch_graphs.in_turns([call, call])()) == 2
