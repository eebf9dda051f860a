"""Data sets through tfds, read without tensorflow."""

import difflib
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from unlearnjax import importing
from unlearnjax.data import fields, local, text_attacks, vader
from unlearnjax.data.batching import numeric
from unlearnjax.data.dataset import Dataset, entered, scaled, standardised
from unlearnjax.data.validation import listed


def _sentences(task: str, source: str | os.PathLike) -> Dataset:
    """A task of `vader`, in whose vocabulary are the words of triggers."""
    return vader.load(source, task, required=text_attacks.REQUIRED).dataset


# What reads a set from `source`.
FROM_FILES = {
    "spoken_digits": local.spoken_digits,
    "image_folder": local.image_folder,
    **{f"vader_{task}": functools.partial(_sentences, task) for task in vader.TASKS},
}
LOCAL = ("diabetes", *FROM_FILES)


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
            close = difflib.get_close_matches(name, ["digits", *LOCAL, *known], n=5)
            raise ValueError(
                f"dataset must be 'digits', one of {LOCAL} or a tfds name, got {name!r}; "
                f"nearest: {', '.join(close) or 'none'} (tfds.list_builders() lists all)"
            )
        result = tfds.builder(name, **options)
    if not _is_prepared(result):
        _prepare(result, name)
        result = type(result)(**options) if name == "digits" else tfds.builder(name, **options)
    return result


def load(
    name: str, data_dir: str | os.PathLike | None = None, source: str | os.PathLike | None = None
) -> Dataset:
    """Loads a set into memory: a tfds classification set (`image`, `label`), or one of `LOCAL`.

    Args:
      name, data_dir: see `builder`; or 'diabetes' (ships with scikit-learn), 'spoken_digits',
        'image_folder' (see `local`), 'vader_polarity', 'vader_source' (see `vader`, with the words
        of `text_attacks` in the vocabulary); or 'module:function' of your own, imported and called,
        which returns a `Dataset` (`standardised` makes one of arrays).
      source: the files of those but 'diabetes'.

    Raises:
      ValueError: unknown or unpreparable set, one that has no images with labels, or, see
        `validate`, one that no model can learn from.
    """
    if importing.is_path(name):
        return _own(name)
    if name == "diabetes":
        return local.diabetes()
    if name in FROM_FILES:
        if source is None:
            raise ValueError(f"dataset {name!r} is read from files: give --config.source=PATH")
        return FROM_FILES[name](source)
    built = builder(name, data_dir)
    features = built.info.features
    if not {"image", "label"} <= set(features) or not {"train", "test"} <= set(built.info.splits):
        raise ValueError(
            f"dataset {name!r} must have the features 'image', 'label' and the splits 'train', "
            f"'test'; it has {sorted(features)} and {sorted(built.info.splits)}"
        )
    names = getattr(features["label"], "names", None)
    if names is None:
        raise ValueError(f"dataset {name!r} must have classes as 'label', got {features['label']}")
    train, test = (_read(built.as_data_source(split)) for split in ("train", "test"))
    return standardised(train, test, names)


def _own(path: str) -> Dataset:
    loaded = importing.imported(path)()
    if not isinstance(loaded, Dataset):
        raise ValueError(f"dataset {path!r} must return a data.Dataset, got {type(loaded)}")
    return entered(loaded)


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
        return numeric({**batch, "inputs": scaled(batch["inputs"], dataset.mean, dataset.std)})

    return fetch


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


def _read(source, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    rows = range(len(source)) if rows is None else rows
    examples = source.__getitems__(list(rows))
    shapes = {np.shape(e["image"]) for e in examples}
    if len(shapes) > 1:
        raise ValueError(f"images must be of one shape, got {listed(sorted(shapes))}")
    part = {
        "inputs": np.stack([e["image"] for e in examples]).astype(np.float32),
        "targets": np.array([e["label"] for e in examples], dtype=np.int32),
    }
    # Scalar fields beside image and label (an identity, a coarse label) can define forget sets.
    for key, value in examples[0].items():
        if key not in part and key not in ("image", "label") and np.ndim(value) == 0:
            part[key] = _column([e[key] for e in examples])
    return {**part, "index": np.asarray(rows, dtype=np.int32)}


def _column(values: list) -> np.ndarray:
    """One value per example; text as `str` of any length."""
    if isinstance(values[0], str | bytes):
        return np.array([fields.printed(value) for value in values], object)
    return np.array(values)
