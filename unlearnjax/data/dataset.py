"""A data set in memory, and its other views: fewer examples, coarser labels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A supervised set in memory.

    Attributes:
      train, test: `{'inputs': [N, ...] float32, 'targets': [N], 'index': [N] int32}` plus any
        further scalar fields (an identity, a coarse label); inputs standardised by the training
        set's mean and standard deviation per channel. Targets are class numbers (int32), or
        numbers (float32) for regression.
      num_classes: C; 1 for regression.
      class_names: C names.
      mean, std: the standardisation, per channel; `inputs * std + mean` is the stored input.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    num_classes: int
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray


def standardised(train: dict, test: dict, class_names: Sequence[str]) -> Dataset:
    """A `Dataset` from raw parts without `index`: inputs standardised by those of `train`."""
    axes = tuple(range(train["inputs"].ndim - 1))
    mean = train["inputs"].mean(axes, dtype=np.float64).astype(np.float32)
    std = np.maximum(train["inputs"].std(axes, dtype=np.float64), 1e-6).astype(np.float32)

    def part(raw):
        return renumbered({**raw, "inputs": (raw["inputs"] - mean) / std})

    return Dataset(part(train), part(test), len(class_names), tuple(class_names), mean, std)


def with_superclasses(dataset: Dataset, groups: Sequence[Sequence[int]]) -> Dataset:
    """The same data with classes lumped together; the field `subclass` keeps the original label.

    Forgetting `field:subclass:3` is then sub-class forgetting.

    Args:
      dataset: of classification.
      groups: a partition of the classes; group g becomes class g.

    Raises:
      ValueError: if `groups` is no partition of the classes.
    """
    members = sorted(c for group in groups for c in group)
    if members != list(range(dataset.num_classes)):
        raise ValueError(
            f"superclasses must hold each of the classes 0 to {dataset.num_classes - 1} once, got "
            f"{[list(group) for group in groups]}"
        )
    group_of = np.empty(dataset.num_classes, np.int32)
    for number, group in enumerate(groups):
        group_of[list(group)] = number

    names = tuple("+".join(dataset.class_names[c] for c in group) for group in groups)
    return _retargeted(dataset, lambda data: group_of[data["targets"]], names)


def with_target(dataset: Dataset, field: str) -> Dataset:
    """The same data with a scalar field as target (CIFAR-100's `coarse_label`); see above.

    Raises:
      ValueError: if there is no such field, or it does not number classes from 0.
    """
    fields = sorted(set(dataset.train) - {"inputs", "index", "targets"})
    if field not in fields:
        raise ValueError(f"target must be one of the fields {fields}, got {field!r}")
    values = np.unique(np.concatenate([dataset.train[field], dataset.test[field]]))
    if not np.array_equal(values, np.arange(len(values))):
        raise ValueError(f"target {field!r} must have the values 0, 1, ..., got {values[:10]}")

    names = tuple(str(v) for v in values)
    return _retargeted(dataset, lambda data: data[field].astype(np.int32), names)


def subsample(part: dict[str, np.ndarray], size: int | None, rng: np.random.Generator) -> dict:
    """A random `size` examples of `train` or `test`, renumbered; all of them for `None`.

    Raises:
      ValueError: for a size below 1 or above what there is.
    """
    if size is None:
        return part
    n = len(part["targets"])
    if not 1 <= size <= n:
        raise ValueError(f"number of examples must lie in [1, {n}], got {size}")
    rows = np.sort(rng.choice(n, size, replace=False))
    return renumbered({name: value[rows] for name, value in part.items()})


def renumbered(part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`index` counted from 0 again."""
    return {**part, "index": np.arange(len(part["targets"]), dtype=np.int32)}


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
    return tuple(renumbered({k: v[part] for k, v in train.items()}) for part in parts)


def _retargeted(dataset: Dataset, targets: Callable[[dict], np.ndarray], names) -> Dataset:
    """Other targets, with the old ones in the field `subclass`."""

    def part(data):
        return {**data, "subclass": data["targets"], "targets": targets(data)}

    return dataset._replace(
        train=part(dataset.train),
        test=part(dataset.test),
        num_classes=len(names),
        class_names=names,
    )
