"""A graph convolution network in PyTorch, with our weights, both of its products sparse. Optional.

Needs torch. Features and the normalised adjacency matrix are lists of what they hold (COO), whose
product and gradient are the fastest form on CPUs; dropout of features is of what is listed.
"""

from collections.abc import Callable

import numpy as np

from experiments.benchmarks import torch_models
from experiments.benchmarks.torch_reference import Call, waited_for
from unlearnjax.types import PyTree

try:
    import torch
    from torch.nn import functional as F
except ImportError:  # the reference is then left out
    torch = None


@waited_for
def training(
    params: PyTree,
    features,
    adjacency,
    targets: np.ndarray,
    *,
    num_epochs: int,
    rate: float,
    dropout: float = 0.5,
) -> Call:
    """Epochs of Adam on the cross-entropy of the first nodes, from `params` of a GCN of two layers.

    Args:
      params: of `models.GCN` with one hidden layer.
      features, adjacency: SciPy's sparse matrices `[N, D]`, `[N, N]`, the latter normalised.
      targets: `[n]` classes of nodes 0 to n - 1.
      num_epochs, rate, dropout: of the training.
    """
    device = torch_models.device()
    x, a = _sparse(features), _sparse(adjacency)
    layers = [params["layer_0"], params["layer_1"]]
    start = [torch.tensor(np.array(w), device=device) for p in layers
             for w in (p["Linear_0"]["kernel"], p["bias"])]  # fmt: skip
    classes = torch.from_numpy(np.array(targets)).long().to(device)

    def call():
        weights = [w.clone().requires_grad_() for w in start]
        kernel, bias, last, last_bias = weights
        optimizer = torch.optim.Adam(weights, rate)
        for _ in range(num_epochs):
            values = F.dropout(x.values(), dropout)
            dropped = torch.sparse_coo_tensor(x.indices(), values, x.shape, is_coalesced=True)
            hidden = torch.sparse.mm(a, torch.sparse.mm(dropped, kernel)) + bias
            hidden = F.dropout(torch.relu(hidden), dropout)
            logits = torch.sparse.mm(a, hidden @ last) + last_bias
            loss = F.cross_entropy(logits[: len(classes)], classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return weights

    return call


def in_turns(calls: list[Call]) -> Callable[[], list]:
    """One after another."""
    return lambda: [call() for call in calls]


def _sparse(matrix) -> "torch.Tensor":
    """A sparse matrix on the device."""
    matrix = matrix.tocoo()
    places = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    made = torch.sparse_coo_tensor(places, values, matrix.shape)
    return made.coalesce().to(torch_models.device())
