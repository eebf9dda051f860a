"""Data sets through tfds, read without tensorflow."""

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A classification set in memory.

    Attributes:
      train, test: `{'inputs': [N, ...] float32, 'targets': [N] int32, 'index': [N] int32}` plus any
        further scalar fields of the tfds set; inputs standardised by the training set's mean and
        standard deviation per channel.
      num_classes: C.
      class_names: C names.
      mean, std: the standardisation, per channel; `inputs * std + mean` is the stored image.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    num_classes: int
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray


def builder(name: str, data_dir: str | os.PathLike | None = None):
    """The prepared tfds builder of `name`, preparing it as array_record first where it is absent.

    Args:
      name: `digits` (ships with scikit-learn) or any tfds classification set: `mnist`,
        `fashion_mnist`, `cifar10`, `cifar100`, `svhn_cropped`, ...
      data_dir: the tfds directory; default tfds' own (`TFDS_DATA_DIR` or ~/tensorflow_datasets).

    Raises:
      ValueError: unknown name, or a set that cannot be prepared here; it says how to prepare it.
    """
    import tensorflow_datasets as tfds

    options = {"data_dir": None if data_dir is None else str(data_dir)}
    options["file_format"] = "array_record"
    if name == "digits":
        from unlearnjax.data import digits

        result = digits.Digits(**options)
    else:
        known = tfds.list_builders(with_community_datasets=False)
        if name.split("/")[0].split(":")[0] not in known:
            close = difflib.get_close_matches(name, ["digits", *known], n=5)
            raise ValueError(
                f"dataset must be 'digits' or a tfds name, got {name!r}; "
                f"nearest: {', '.join(close) or 'none'} (tfds.list_builders() lists all)"
            )
        result = tfds.builder(name, **options)
    if not _is_prepared(result):
        _prepare(result, name)
        result = type(result)(**options) if name == "digits" else tfds.builder(name, **options)
    return result


def load(name: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Loads a tfds classification set (`image`, `label`) into memory. See `builder`.

    Raises:
      ValueError: unknown or unpreparable set, or one that has no images with labels.
    """
    built = builder(name, data_dir)
    features = built.info.features
    if not {"image", "label"} <= set(features) or not {"train", "test"} <= set(built.info.splits):
        raise ValueError(
            f"dataset {name!r} must have the features 'image', 'label' and the splits 'train', "
            f"'test'; it has {sorted(features)} and {sorted(built.info.splits)}"
        )
    train, test = (_read(built.as_data_source(split)) for split in ("train", "test"))
    axes = tuple(range(train["inputs"].ndim - 1))
    mean = train["inputs"].mean(axes, dtype=np.float64).astype(np.float32)
    std = np.maximum(train["inputs"].std(axes, dtype=np.float64), 1e-6).astype(np.float32)
    for part in (train, test):
        part["inputs"] = (part["inputs"] - mean) / std
    label = features["label"]
    return Dataset(train, test, label.num_classes, tuple(label.names), mean, std)


def fetcher(
    name: str, split: str, dataset: Dataset, data_dir: str | os.PathLike | None = None
) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
    """`positions -> batch`, read from disk when asked: for `training.stream_epochs`.

    Args:
      name, data_dir: see `builder`.
      split: a tfds split, e.g. 'train' or 'train[:10%]'.
      dataset: whose standardisation is used; only `mean` and `std` are read.
    """
    source = builder(name, data_dir).as_data_source(split)

    def fetch(rows: Sequence[int]) -> dict[str, np.ndarray]:
        batch = _read(source, [int(row) for row in rows])
        return {**batch, "inputs": (batch["inputs"] - dataset.mean) / dataset.std}

    return fetch


def split_validation(
    train: dict[str, np.ndarray], fraction: float, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Splits off a random validation part; `index` is renumbered within each part."""
    if not 0 < fraction < 1:
        raise ValueError(f"validation fraction must lie in (0, 1), got {fraction}")
    n = len(train["targets"])
    order = rng.permutation(n)
    cut = max(1, round(fraction * n))
    parts = (np.sort(order[cut:]), np.sort(order[:cut]))
    return tuple(_renumber({k: v[part] for k, v in train.items()}) for part in parts)


def _prepare(built, name: str) -> None:
    import tensorflow_datasets as tfds

    if name == "digits":  # takes a second, in which five progress bars are noise
        tfds.disable_progress_bar()
    try:
        built.download_and_prepare()
    except Exception as error:
        if _is_prepared(built):
            return  # by another process that started at the same time
        how = (
            "check that the directory can be written"
            if name == "digits"
            else "on a machine with network and `pip install tensorflow-cpu tensorflow-datasets "
            'importlib_resources` run: python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', file_format='array_record', data_dir='DIR')"
            '.download_and_prepare()" and pass --data_dir=DIR'
        )
        raise ValueError(
            f"dataset {name!r} is not prepared under {built.data_dir} and preparing it failed "
            f"({type(error).__name__}); {how}"
        ) from error
    finally:
        tfds.enable_progress_bar()


def _is_prepared(built) -> bool:
    return (Path(built.data_dir) / "dataset_info.json").exists()


def _renumber(part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**part, "index": np.arange(len(part["targets"]), dtype=np.int32)}


def _read(source, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    rows = range(len(source)) if rows is None else rows
    examples = source.__getitems__(list(rows))
    part = {
        "inputs": np.stack([e["image"] for e in examples]).astype(np.float32),
        "targets": np.array([e["label"] for e in examples], dtype=np.int32),
    }
    # Scalar fields beside image and label (an identity, a coarse label) can define forget sets.
    for key, value in examples[0].items():
        if key not in ("image", "label") and np.ndim(value) == 0 and not isinstance(value, bytes):
            part[key] = np.array([e[key] for e in examples])
    return {**part, "index": np.asarray(rows, dtype=np.int32)}
