import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_digits

from tests import networks
from unlearnjax.data import graphs, planetoid

# As a fixture of the real files, if they are there.
REAL = Path(os.environ.get("UNLEARNJAX_PLANETOID", "/nonexistent"))


def written(folder, **others):
    """A tiny set in Planetoid's form: nodes 0 to 8 in order, then 11, 9; 10 is left out."""
    x = np.abs(networks.features())[: networks.N]
    onehot = np.eye(networks.C)[networks.data()["targets"]]
    sparse = scipy.sparse.csr_matrix
    graph = {node: [] for node in range(networks.N)}
    for one, other in networks.EDGES.tolist():
        graph[one] += [other]
        graph[other] += [one, one]  # listed more than once
    graph[4].append(4)
    tested = [11, 9]
    parts = {
        "x": sparse(x[:3]), "y": onehot[:3], "allx": sparse(x[:9]), "ally": onehot[:9],
        "tx": sparse(x[tested]), "ty": onehot[tested], "graph": graph, **others,
    }  # fmt: skip
    for name, value in parts.items():
        (folder / f"ind.toy.{name}").write_bytes(pickle.dumps(value))
    (folder / "ind.toy.test.index").write_text("11\n9\n")
    return x


def test_the_parts_come_together_at_their_places(tmp_path, monkeypatch):
    monkeypatch.setattr(planetoid, "NUM_VALIDATION", 5)
    x = written(tmp_path)
    made = planetoid.load(tmp_path, "toy")
    sorted_edges = np.unique(np.sort(networks.EDGES, axis=1), axis=0)
    np.testing.assert_array_equal(graphs.pairs(made.graph), sorted_edges)
    words = made.graph["nodes"]
    dense = np.zeros(x.shape)
    np.add.at(dense, (np.arange(networks.N)[:, None], words["ids"]), words["values"])
    expected = x / x.sum(1, keepdims=True)
    expected[10] = 0
    np.testing.assert_allclose(dense, expected, rtol=1e-6)
    assert [p["inputs"].tolist() for p in (made.train, made.val, made.test)] == [
        [0, 1, 2], [3, 4, 5, 6, 7], [9, 11]
    ]  # fmt: skip
    targets = networks.data()["targets"].copy()
    np.testing.assert_array_equal(made.test["targets"], targets[[9, 11]])
    targets[10] = -1
    np.testing.assert_array_equal(made.targets, targets)


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Harm(), "system"),
        ({0: [Harm()]}, "system"),
        (np.array([Harm()], object), "system"),
        ({1, 2}, "set"),
        (print, "print"),
        (Path("x"), "Path"),
    ],
)
def test_pickles_run_no_code(tmp_path, monkeypatch, value, name):
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 5):
        (tmp_path / "bad").write_bytes(pickle.dumps(value, protocol=protocol))
        if isinstance(value, set) and protocol == 5:
            continue  # sets are data there
        with pytest.raises(ValueError, match=rf"arrays, mappings and lists, got .*{name}"):
            planetoid.read_pickle(tmp_path / "bad")
    assert not (tmp_path / "harmed").exists()


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold Planetoid's files of 'toy', ind.toy.x is not"):
        planetoid.load(tmp_path, "toy")
    (tmp_path / "bad").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="must be a pickle of arrays"):
        planetoid.read_pickle(tmp_path / "bad")
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="must be an .npz of adj_"):
        planetoid.load_npz(tmp_path / "bad.npz")
    written(tmp_path, graph={0: [1], 1: [2], 2: [1]})
    with pytest.raises(ValueError, match=r"both directions, got \[0, 1\] alone"):
        planetoid.load(tmp_path, "toy")


def test_archives_of_sparse_matrices(tmp_path):
    x = scipy.sparse.csr_matrix(np.maximum(networks.features(), 0))
    directed = scipy.sparse.csr_matrix(
        (np.ones(len(networks.EDGES)), networks.EDGES.T), (networks.N, networks.N)
    )
    fields = {
        f"{name}_{part}": getattr(matrix, part)
        for name, matrix in (("adj", directed), ("attr", x))
        for part in ("data", "indices", "indptr", "shape")
    }
    np.savez(tmp_path / "toy.npz", labels=networks.data()["targets"], **fields)
    made = planetoid.load_npz(tmp_path / "toy.npz", shares=(0.5, 0.25))
    edges = np.unique(np.sort(networks.EDGES, axis=1), axis=0)
    np.testing.assert_array_equal(graphs.pairs(made.graph), edges)
    assert [len(p["inputs"]) for p in (made.train, made.val, made.test)] == [6, 3, 3]
    assert made.num_classes == networks.C
    other = planetoid.load_npz(tmp_path / "toy.npz", seed=1, shares=(0.5, 0.25))
    assert (other.train["inputs"] != made.train["inputs"]).any()
    np.savez(tmp_path / "bad.npz", labels=np.array([Harm()], object), **fields)
    with pytest.raises(ValueError, match="must be an .npz of .*allow_pickle"):
        planetoid.load_npz(tmp_path / "bad.npz")
    usual = planetoid.load_npz(tmp_path / "toy.npz")  # 80 and 10 in a hundred of 12
    assert [len(p["inputs"]) for p in (usual.train, usual.val, usual.test)] == [10, 1, 1]
    for labels in (networks.data()["targets"][:5], np.ones(networks.N) / 2):
        np.savez(tmp_path / "toy.npz", labels=labels, **fields)
        with pytest.raises(ValueError, match=r"targets must be integers \[12\]|nodes must be"):
            planetoid.load_npz(tmp_path / "toy.npz")


def test_digits_are_linked_to_as_many_as_asked_for():
    images, targets = load_digits(return_X_y=True)
    made = planetoid.nearest_digits(2)
    np.testing.assert_array_equal(graphs.pairs(made.graph), graphs.nearest(images, 2))
    np.testing.assert_array_equal(made.graph["nodes"], (images / 16).astype(np.float32))
    np.testing.assert_array_equal(made.targets, targets)
    train, val, test = (part["inputs"] for part in (made.train, made.val, made.test))
    assert (test % 5 == 4).all() and len(test) == 1797 // 5
    rest = np.delete(np.arange(1797), test)
    np.testing.assert_array_equal(val, rest[9::10])
    np.testing.assert_array_equal(train, np.setdiff1d(rest, val))


@pytest.mark.parametrize(
    "others", [{"graph": [1, 2]}, {"tx": np.ones((1, 5, 2))}, {"ally": None}, {"allx": [1.0]}]
)
def test_parts_that_do_not_fit_are_refused(tmp_path, others):
    written(tmp_path, **others)
    with pytest.raises(ValueError, match="must hold Planetoid's parts of 'toy'"):
        planetoid.load(tmp_path, "toy")


def test_every_node_has_a_target():
    splits = np.array([0, 1]), np.array([3]), np.array([2])
    targets = networks.data()["targets"]
    for bad in (targets[:9], targets.astype(float), targets[None]):
        with pytest.raises(ValueError, match=r"^targets must be integers \[12\], got"):
            planetoid.dataset(networks.small(), bad, splits, ("a", "b", "c"))


def test_nodes_are_in_one_split():
    splits = np.array([0, 1]), np.array([1]), np.array([2])
    with pytest.raises(ValueError, match="nodes must be named once"):
        planetoid.dataset(networks.small(), networks.data()["targets"], splits, ("a", "b", "c"))
    splits = np.array([0, 1]), np.array([3]), np.array([2])
    targets = np.where(networks.ALL == 3, -1, networks.data()["targets"])
    with pytest.raises(ValueError, match="validation targets must be class numbers"):
        planetoid.dataset(networks.small(), targets, splits, ("a", "b", "c"))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "sizes", "splits", "homophily"),
    [
        ("cora", (2708, 1433, 5278, 7), (140, 500, 1000), 0.810),
        ("citeseer", (3327, 3703, 4552, 6), (120, 500, 1000), 0.735),
    ],
)
def test_the_real_files_have_their_known_sizes(name, sizes, splits, homophily):
    if not REAL.exists():
        pytest.skip("needs UNLEARNJAX_PLANETOID, the folder of Planetoid's files")
    made = planetoid.load(REAL, name)
    edges, words = graphs.pairs(made.graph), made.graph["nodes"]
    found = graphs.num_nodes(made.graph), len(words["known"]), len(edges), made.num_classes
    assert found == sizes
    assert tuple(len(part["inputs"]) for part in (made.train, made.val, made.test)) == splits
    assert graphs.homophily(edges, made.targets) == pytest.approx(homophily, abs=6e-4)
    filled = words["values"].any(1)
    np.testing.assert_allclose(words["values"].sum(1)[filled], 1, rtol=1e-5)
    assert (~filled).sum() == {"cora": 0, "citeseer": 15}[name]
