import subprocess
import sys

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
    assert list(tmp_path.glob("digits/*/*.array_record*"))


def test_validation_split_partitions_and_renumbers(digits, rng):
    train, val = data_lib.split_validation(digits, 0.2, rng)
    assert len(val["targets"]) == round(0.2 * 1797)
    assert len(train["targets"]) + len(val["targets"]) == 1797
    np.testing.assert_array_equal(train["index"], np.arange(len(train["targets"])))
    total = train["inputs"].sum(0) + val["inputs"].sum(0)
    np.testing.assert_allclose(total, digits["inputs"].sum(0), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="validation fraction"):
        data_lib.split_validation(digits, 1.0, rng)


def test_unknown_name_suggests_near_ones(tmp_path):
    with pytest.raises(ValueError, match="got 'fashon_mnist'; nearest: fashion_mnist"):
        data_lib.load("fashon_mnist", tmp_path)


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
