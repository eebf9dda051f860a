"""Graphs from files: Planetoid's pickles, of which no code is run, and .npz of sparse matrices."""

import io
import os
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data import graphs, validation
from unlearnjax.data.dataset import renumbered

# Of the standard splits.
NUM_VALIDATION = 500


class GraphDataset(NamedTuple):
    """A graph and the classes of its nodes; in its other fields as `data.Dataset`.

    Attributes:
      train, val, test: `{'inputs': [n] ids of nodes, 'targets': [n], 'index': [n]}`.
      num_classes, class_names: C and their names.
      mean, std: 0 and 1, nothing is rescaled.
      graph: see `data.graphs`.
      targets: `[N]` classes of all nodes, -1 where there is none.
    """

    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    num_classes: int
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    graph: graphs.Graph
    targets: np.ndarray


def dataset(
    graph: graphs.Graph,
    targets: np.ndarray,
    splits: tuple[np.ndarray, np.ndarray, np.ndarray],
    class_names: tuple[str, ...],
) -> GraphDataset:
    """A graph with the nodes to train on, to validate and to test with.

    Args:
      graph: see `graphs.graph`.
      targets: `[N]` classes; of nodes in no split -1 if they have none.
      splits: ids of the training, validation and test nodes.
      class_names: C names.

    Raises:
      ValueError: for an id that is no node or in two places, a class that there is not, or targets
        that are no integers of all nodes.
    """
    targets, number = np.asarray(targets), graphs.num_nodes(graph)
    if targets.shape != (number,) or targets.dtype.kind not in "iu":
        raise ValueError(
            f"targets must be integers [{number}], got {targets.dtype} {list(targets.shape)}"
        )
    graphs.node_rows(graph, np.concatenate(splits))

    def part(name: str, ids: np.ndarray):
        found = {"inputs": ids.astype(np.int32), "targets": targets[ids].astype(np.int32)}
        validation.validate(found, len(class_names), name)
        return renumbered(found)

    parts = [part(*given) for given in zip(("train", "validation", "test"), splits, strict=True)]
    kept = len(class_names), tuple(class_names), np.zeros(()), np.ones(())
    return GraphDataset(*parts, *kept, graph, targets.astype(np.int32))


def load(folder: str | os.PathLike, name: str) -> GraphDataset:
    """Planetoid's Cora, Citeseer or PubMed on their standard split, features normalised by row.

    Edges are read once, in whatever direction and however often they are listed. Nodes that the
    files leave out (15 of Citeseer) are isolated, without features, and in no split.

    Args:
      folder: with `ind.NAME.x`, `.y`, `.tx`, `.ty`, `.allx`, `.ally`, `.graph`, `.test.index`.
      name: 'cora', 'citeseer' or 'pubmed'.

    Raises:
      ValueError: for files that are missing, no such pickles, or hold anything but arrays, SciPy
        matrices, mappings and lists.

    References:
      Yang, Cohen, Salakhutdinov, "Revisiting Semi-Supervised Learning with Graph Embeddings", ICML
      2016.
    """
    from scipy import sparse

    path = lambda part: Path(folder) / f"ind.{name}.{part}"
    missing = [path(p).name for p in ("x", "allx", "graph", "test.index") if not path(p).exists()]
    if missing:
        raise ValueError(f"{folder} must hold Planetoid's files of {name!r}, {missing[0]} is not")
    stored = {p: read_pickle(path(p)) for p in ("x", "tx", "allx", "y", "ty", "ally", "graph")}
    try:
        places = np.array(path("test.index").read_text().split(), np.int64)
        first, number = len(stored["ally"]), places.max() + 1
        features = sparse.lil_matrix((number, stored["allx"].shape[1]), dtype=np.float64)
        features[:first], features[places] = stored["allx"], stored["tx"]
        labels = np.zeros((number, stored["ally"].shape[1]))
        labels[:first], labels[places] = stored["ally"], stored["ty"]
        listed = [(node, other) for node, others in stored["graph"].items() for other in others]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} must hold Planetoid's parts of {name!r}: {error}") from error
    features = features.tocsr()
    sums = np.asarray(features.sum(1)).ravel()
    scaled = sparse.diags(1 / np.where(sums > 0, sums, 1)) @ features
    edges = graphs.undirected(np.array(listed), symmetric=True)
    size = len(stored["y"])
    splits = np.arange(size), np.arange(size, size + NUM_VALIDATION), np.sort(places)
    names = tuple(str(c) for c in range(labels.shape[1]))
    targets = np.where(labels.any(1), labels.argmax(1), -1)
    return dataset(graphs.graph(scaled, edges), targets, splits, names)


def load_npz(
    path: str | os.PathLike, seed: int = 0, shares: tuple[float, float] = (0.8, 0.1)
) -> GraphDataset:
    """A graph in the `.npz` form of CitationFull and Coauthor, split at random.

    Edges are taken in both directions, however they are stored.

    Args:
      path: with `adj_data`, `adj_indices`, `adj_indptr`, `adj_shape`, the same of `attr_`, and
        `labels`.
      seed: of the split.
      shares: of the nodes to train on and to validate with; the others test.

    Raises:
      ValueError: for a file that is no such archive; nothing in it is unpickled.
    """
    from scipy import sparse

    checks.open_share(**{f"shares[{i}]": share for i, share in enumerate(shares)})
    checks.open_share(**{"sum of shares": sum(shares)})
    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = ("data", "indices", "indptr")
            matrices = [
                sparse.csr_matrix(
                    tuple(archive[f"{name}_{p}"] for p in parts), shape=archive[f"{name}_shape"]
                )
                for name in ("adj", "attr")
            ]
            labels = archive["labels"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} must be an .npz of adj_*, attr_* and labels: {error}") from error
    edges = graphs.undirected(np.stack(matrices[0].nonzero(), axis=1))
    order = np.random.default_rng(seed).permutation(len(labels))
    cuts = np.cumsum([round(share * len(labels)) for share in shares])
    splits = tuple(np.sort(ids) for ids in np.split(order, cuts))
    names = tuple(str(c) for c in np.arange(labels.max(initial=-1) + 1))
    return dataset(graphs.graph(matrices[1], edges), labels, splits, names)


def nearest_digits(number: int = 10) -> GraphDataset:
    """scikit-learn's 1,797 digits as a graph of their nearest neighbours, which needs no files.

    Every fifth is to be tested with, as in the data set 'digits', and every tenth of the others to
    validate with. Pixels are in [0, 1].
    """
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    place = np.arange(len(images))
    test = place % 5 == 4
    rest = place[~test]
    splits = np.delete(rest, np.s_[9::10]), rest[9::10], place[test]
    made = graphs.graph(images / 16, graphs.nearest(images, number))
    return dataset(made, targets, splits, tuple(map(str, range(10))))


def read_pickle(path: str | os.PathLike) -> Any:
    """What a pickle of Python 2 or 3 holds, if that is data alone; no code of it is run.

    Raises:
      ValueError: for anything but arrays, SciPy sparse matrices, mappings, lists and numbers.
    """
    try:
        return _plain(_Restricted(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load())
    except ValueError:
        raise
    except Exception as error:  # what a damaged pickle raises is not foreseeable
        raise ValueError(f"{path} must be a pickle of arrays, got {error!r}") from error


class _Stored:
    """The attributes of a SciPy matrix, which is made of them again by hand."""


def _rebuilt(kind: type, base: type, state: Any) -> Any:
    """`copyreg._reconstructor` for what may be stored."""
    if kind is not _Stored or base is not object or state is not None:
        raise ValueError(f"pickles must hold arrays, mappings and lists, got {kind}")
    return _Stored()


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"pickles must hold arrays, mappings and lists, got text in {encoding!r}")
    return text.encode("latin1")


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("collections", "defaultdict"): defaultdict,
            ("copy_reg", "_reconstructor"): _rebuilt,
            ("copyreg", "_reconstructor"): _rebuilt,
            ("_codecs", "encode"): _encoded,
        }
        if (module, name) in known:
            return known[module, name]
        if module in ("__builtin__", "builtins") and name in ("list", "dict", "object"):
            return {"list": list, "dict": dict, "object": object}[name]
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "_reconstruct",
            "scalar",
        ):
            return getattr(np._core.multiarray, name)
        if module.startswith("scipy.sparse") and name in ("csr_matrix", "csr_array"):
            return _Stored
        raise ValueError(f"pickles must hold arrays, mappings and lists, got {module}.{name}")


def _plain(value: Any) -> Any:
    """SciPy's matrix of what was stored of one; anything else as it is."""
    if not isinstance(value, _Stored):
        return value
    from scipy import sparse

    fields = vars(value)
    parts = tuple(fields[name] for name in ("data", "indices", "indptr"))
    return sparse.csr_matrix(parts, shape=fields.get("_shape", fields.get("shape")))
