import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from unlearnjax import data as data_lib


def test_digits_through_tfds_are_scikit_learns(tfds_dir):
    dataset = data_lib.load("digits", tfds_dir)
    images, targets = load_digits(return_X_y=True)
    assert dataset.num_classes == 10
    assert (len(dataset.train["targets"]), len(dataset.test["targets"])) == (1438, 359)
    loaded = np.concatenate([dataset.train["inputs"], dataset.test["inputs"]])
    loaded = (loaded * dataset.std + dataset.mean).reshape(-1, 64)
    labels = np.concatenate([dataset.train["targets"], dataset.test["targets"]])

    def sorted_rows(images, targets):
        rows = np.concatenate([np.rint(images), targets[:, None]], 1).astype(int)
        return rows[np.lexsort(rows.T)]

    np.testing.assert_array_equal(sorted_rows(loaded, labels), sorted_rows(images, targets))
    assert abs(dataset.train["inputs"].mean()) < 1e-4
    assert abs(dataset.train["inputs"].std() - 1) < 1e-4


def test_digits_are_prepared_as_array_record_without_tensorflow(tmp_path):
    code = (
        "import sys; from unlearnjax import data; "
        f"data.load('digits', {str(tmp_path)!r}); assert 'tensorflow' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Generating" not in result.stderr  # a second's work needs no progress bars
    assert list(tmp_path.glob("digits/*/*.array_record*"))


def test_unknown_name_suggests_near_ones(tmp_path):
    with pytest.raises(ValueError, match="got 'fashon_mnist'; nearest: fashion_mnist"):
        data_lib.load("fashon_mnist", tmp_path)


def test_sets_of_the_community_which_ask_the_network_are_not_listed(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def listed(*, with_community_datasets=True):
        return ["mnist"] + ["hf:mnist_"] * with_community_datasets

    monkeypatch.setattr(tfds, "list_builders", listed)
    with pytest.raises(ValueError, match=r"got 'mnist_'; nearest: mnist \("):
        data_lib.load("mnist_", tmp_path)


def test_unpreparable_set_says_the_command_to_prepare_it(tmp_path, monkeypatch):
    """As without network: preparing raises at once."""
    import tensorflow_datasets as tfds

    def unreachable(self, *args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", unreachable)
    with pytest.raises(ValueError, match=r"tfds.builder\('mnist'.*--data_dir=DIR") as caught:
        data_lib.load("mnist", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_set_that_another_process_prepares_meanwhile_is_used(tmp_path, monkeypatch):
    from unlearnjax.data import digits as digits_lib

    prepare = digits_lib.Digits.download_and_prepare

    def lose_the_race(self, *args, **kwargs):
        prepare(self, *args, **kwargs)
        raise FileExistsError("prepared by another process")

    monkeypatch.setattr(digits_lib.Digits, "download_and_prepare", lose_the_race)
    assert data_lib.load("digits", tmp_path).num_classes == 10


def test_streamed_examples_are_those_in_memory(tfds_dir):
    dataset = data_lib.load("digits", tfds_dir)
    fetch = data_lib.fetcher("digits", "train", dataset, tfds_dir)
    rows = [3, 0, 1437]
    batch = fetch(rows)
    assert sorted(batch) == sorted(dataset.train)
    for name, value in batch.items():
        np.testing.assert_array_equal(value, dataset.train[name][rows])


def fake_set(monkeypatch, examples, label=None):
    """A tfds set of those examples in both of its splits, at the seam of `builder`."""

    class Source(list):
        def __getitems__(self, rows):
            return [self[i] for i in rows]

    classes = types.SimpleNamespace(names=["no", "yes"]) if label is None else label
    info = types.SimpleNamespace(features={"image": 0, "label": classes}, splits=["train", "test"])
    built = types.SimpleNamespace(info=info, as_data_source=lambda split: Source(examples))
    monkeypatch.setattr(data_lib.loading, "builder", lambda name, data_dir: built)


def example(number, **fields):
    image = np.full((4, 4, 1), number, np.uint8)
    return {"image": image, "label": number % 2, **fields}


def test_text_and_float64_fields_choose_forget_sets_and_stay_on_the_host(monkeypatch, rng):
    names = [b"ann", b"anna", "bob", b"j\xc3\xb6rg", b"\xff"]
    fields = {"who": names, "age": np.linspace(0, 0.4, 5), "far": [2**40, 1, 2, 3, 4]}
    examples = [example(i, **{k: v[i] for k, v in fields.items()}) for i in range(5)]
    fake_set(monkeypatch, examples)
    dataset = data_lib.load("fake")
    assert dataset.train["who"].tolist() == ["ann", "anna", "bob", "jörg", "\\xff"]
    for spec, row in (("who:anna", 1), ("who:jörg", 3), ("age:0.2", 2), (f"far:{2**40}", 0)):
        chosen = data_lib.forget_sets.select(f"field:{spec}", dataset.train, dataset.test, rng)
        assert chosen.forget.tolist() == [row]
    placed = jax.device_put(data_lib.numeric(dataset.train))
    assert sorted(placed) == ["age", "far", "index", "inputs", "targets"]
    assert placed["age"].dtype == np.float32
    fetch = data_lib.fetcher("fake", "train", dataset, None)
    assert sorted(fetch([1, 3])) == sorted(placed)
    np.testing.assert_array_equal(fetch([1, 3])["inputs"], dataset.train["inputs"][[1, 3]])


def test_a_set_that_no_model_can_learn_from_is_refused(monkeypatch):
    for examples, label, message in (
        ([example(0), example(1, label=-1)], None, "train targets .* got -1 in row 1"),
        (
            [example(0), example(1, image=np.ones((3, 4, 1)))],
            None,
            r"of one shape, got \(3, 4, 1\)",
        ),
        ([example(0), example(1)], "float", "must have classes as 'label', got float"),
    ):
        fake_set(monkeypatch, examples, label)
        with pytest.raises(ValueError, match=message):
            data_lib.load("fake")


def test_a_data_set_of_ones_own_is_checked_and_typed(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(
        "import numpy as np\n"
        "from unlearnjax import data\n"
        "def of(targets, num_classes=2, **more):\n"
        "    part = {'inputs': [[0.0], [1.0], [2.0], [4.0]], 'targets': targets, **more}\n"
        "    names = ('a', 'b')[:num_classes]\n"
        "    return data.Dataset(part, part, num_classes, names, np.zeros(1), np.ones(1))\n"
        "def right(): return of([0, 1, 0, 1])\n"
        "def numbered(): return of([0, 1, 0, 1], index=[7, 3, 5, 9])\n"
        "def regression(): return of([0.5, 1.0, 2.0, 3.0], 1)\n"
        "def from_one(): return of([1, 2, 1, 2])\n"
        "def negative(): return of([0, -1, 0, 1])\n"
        "def floats(): return of([0.0, 1.0, 0.0, 1.0])\n"
        "def missing(): return of([0.5, float('nan'), 1.0, 2.0], 1)\n"
        "def ragged(): return of([0, 1, 0])\n"
        "def twice(): return of([0, 1, 0, 1], index=[0, 1, 1, 2])\n"
        "def unnamed(): return of([0, 1, 0, 1], 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    dataset = data_lib.load("own_parts:right")
    assert dataset.train["inputs"].dtype == np.float32
    assert dataset.train["targets"].dtype == dataset.train["index"].dtype == np.int32
    np.testing.assert_array_equal(dataset.test["index"], [0, 1, 2, 3])
    assert data_lib.load("own_parts:numbered").train["index"].tolist() == [7, 3, 5, 9]
    assert data_lib.load("own_parts:regression").train["targets"].dtype == np.float32
    for name, message in (
        ("from_one", r"train targets must be class numbers in \[0, 2\), got 2, 2 in row 1, 3"),
        ("negative", "got -1 in row 1"),
        ("floats", "train targets must be integers"),
        ("missing", "train targets must be finite, got others in row 1"),
        ("ragged", "train must have one value per example in each field"),
        ("twice", "train index must be distinct, got 1 in row 2"),
        ("unnamed", r"class_names must be num_classes \(3\) names, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            data_lib.load(f"own_parts:{name}")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("fashion_mnist", (28, 28, 1), (60_000, 10_000)),
        ("cifar10", (32, 32, 3), (50_000, 10_000)),
    ],
)
def test_prepared_sets_load(real_data_dir, name, shape, sizes):
    dataset = data_lib.load(name, real_data_dir)
    assert dataset.train["inputs"].shape == (sizes[0], *shape)
    assert dataset.test["inputs"].shape == (sizes[1], *shape)
    assert dataset.mean.shape == (shape[-1],)
    assert np.bincount(dataset.train["targets"]).tolist() == [sizes[0] // 10] * 10
