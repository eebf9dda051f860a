"""Layers against torch-geometric's with the same weights, where that is installed."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

import torch
import torch_geometric.nn as geometric

from tests import networks
from unlearnjax import models

pytestmark = pytest.mark.slow
ELU, RELU = torch.nn.functional.elu, torch.relu


def tensor(x):
    return torch.tensor(np.asarray(x, np.float32))


def gcn(params, inputs):
    width = params["bias"].shape[0]
    return geometric.GCNConv(inputs, width), {
        "lin.weight": params["Linear_0"]["kernel"].T, "bias": params["bias"]
    }  # fmt: skip


def gat(params, inputs):
    heads, width = params["source"].shape
    return geometric.GATConv(inputs, width, heads), {
        "lin.weight": params["Linear_0"]["kernel"].T,
        "att_src": params["source"][None],
        "att_dst": params["target"][None],
        "bias": params["bias"],
    }


def gin(params, inputs):
    width = params["bias"].shape[0]
    linear = torch.nn.Linear
    mlp = torch.nn.Sequential(linear(inputs, width), torch.nn.ReLU(), linear(width, width))
    return geometric.GINConv(mlp, eps=0.3), {
        "nn.0.weight": params["Linear_0"]["kernel"].T,
        "nn.0.bias": params["bias"],
        "nn.2.weight": params["Linear_1"]["kernel"].T,
        "nn.2.bias": params["Linear_1"]["bias"],
    }


@pytest.mark.parametrize(
    ("module", "make", "activation"),
    [
        (models.GCN(networks.C, hidden=(4,)), gcn, RELU),
        (models.GAT(networks.C, hidden=(2,), num_heads=2), gat, ELU),
        (models.GIN(networks.C, hidden=(4,), eps=0.3), gin, RELU),
    ],
    ids=["gcn", "gat", "gin"],
)
def test_layers_are_torch_geometrics(module, make, activation):
    graph = networks.small()
    leaves, treedef = jax.tree.flatten(module.init(jax.random.key(0), graph))
    rng = np.random.default_rng(1)
    params = treedef.unflatten([rng.normal(size=x.shape).astype(np.float32) for x in leaves])
    ours = module.apply(params, graph)
    ends = torch.from_numpy(np.stack([graph["senders"], graph["receivers"]]).astype(np.int64))
    h = tensor(networks.features())
    for i in range(2):
        layer, weights = make(params["params"][f"layer_{i}"], h.shape[1])
        layer.load_state_dict({k: tensor(v) for k, v in weights.items()}, strict=make is not gin)
        with torch.no_grad():
            out = layer(h, ends)
        np.testing.assert_allclose(ours[f"layer_{i}"], out.numpy(), rtol=1e-4, atol=1e-4)
        h = activation(out)
