"""A small graph that many tests share, and its layers in dense matrices."""

import numpy as np

from unlearnjax import models, tasks
from unlearnjax.data import graphs

N, D, C = 12, 5, 3
EDGES = np.array(
    [[0, 1], [1, 2], [2, 0], [3, 2], [3, 4], [5, 4], [6, 5], [6, 7], [8, 7], [8, 9], [4, 9], [1, 8]]
)  # nodes 10 and 11 are isolated
ALL = np.arange(N)


def features(seed=0):
    return np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32)


def small():
    return graphs.graph(features(), EDGES)


def data():
    return {
        "inputs": ALL.astype(np.int32),
        "targets": (ALL % C).astype(np.int32),
        "index": ALL.astype(np.int32),
    }


def task(module=None, graph=None):
    module = models.GCN(C, hidden=(4,), dropout=0.0) if module is None else module
    model = tasks.from_linen(module, ("graph",))
    return tasks.node_classification(model, small() if graph is None else graph)


def adjacency(edges, number=N):
    dense = np.zeros((number, number))
    dense[edges[:, 0], edges[:, 1]] = dense[edges[:, 1], edges[:, 0]] = 1
    return dense


def normalised(edges, number=N):
    """`D^-1/2 (A + I) D^-1/2` in float64."""
    whole = adjacency(edges, number) + np.eye(number)
    norm = 1 / np.sqrt(whole.sum(1))
    return norm[:, None] * whole * norm
