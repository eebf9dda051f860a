"""Graphs from a config: the data set, what is to be forgotten of it, how models are trained."""

import functools
from pathlib import Path

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from unlearnjax import checks, tasks
from unlearnjax.data import graph_requests, planetoid
from unlearnjax.data.graph_requests import GraphRequest
from unlearnjax.data.planetoid import GraphDataset
from unlearnjax.types import Task

ARGUMENTS = ("graph",)
PLANETOID = ("cora", "citeseer", "pubmed")
DATASETS = ("digits", *PLANETOID, "npz")
# Of the first layer's parameters, half its square in the loss, as Kipf and Welling have it.
DECAY = 5e-4


def dataset(config: ConfigDict, data_dir: str | None) -> GraphDataset:
    """The graph, and the nodes, or pairs of nodes, that are learned.

    Raises:
      ValueError: for an unknown data set, or one whose files are not there.
    """
    checks.one_of(dataset=(config.dataset, DATASETS))
    for field in ("num_train", "num_test", "target", "weights"):
        if config[field] is not None:
            raise ValueError(f"{field} has no meaning for graphs, got {config[field]!r}")
    nodes = _nodes(config.dataset, data_dir, config.source, config.task_options.num_neighbours)
    if config.task == "link_prediction":
        return graph_requests.linked(nodes, config.seed)
    return nodes


def request(config: ConfigDict, dataset: GraphDataset) -> GraphRequest:
    """What `config.forget` says, from `config.seed` alone."""
    return graph_requests.select(config.forget, dataset, np.random.default_rng(config.seed))


def node_task(model: tasks.Model, config: ConfigDict, dataset: GraphDataset) -> Task:
    """The classification of nodes, on a graph of the shapes that the request has."""
    return tasks.node_classification(model, request(config, dataset).graph)


def link_task(model: tasks.Model, config: ConfigDict, dataset: GraphDataset) -> Task:
    """The prediction of links."""
    return tasks.link_prediction(model, request(config, dataset).graph)


def first_layer_decay(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """A `train.recipe`: `tx` of a loss with `DECAY / 2` times the first layer's squares in it."""

    def first(params):
        name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
        return jax.tree_util.tree_map_with_path(
            lambda path, _: name(path).startswith("layer_0"), params
        )

    return optax.chain(optax.masked(optax.add_decayed_weights(DECAY), first), tx)


@functools.cache
def _nodes(name: str, data_dir: str | None, source: str | None, num_neighbours: int):
    if name == "digits":
        return planetoid.nearest_digits(num_neighbours)
    if name == "npz":
        if source is None:
            raise ValueError("dataset 'npz' is read from a file: give --config.source=PATH")
        return planetoid.load_npz(source)
    if data_dir is None:
        raise ValueError(f"dataset {name!r} is read from Planetoid's files: give --data_dir=FOLDER")
    own = Path(data_dir) / "planetoid"
    return planetoid.load(own if own.is_dir() else data_dir, name)
