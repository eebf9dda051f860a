"""A data set in memory, and its other views: fewer examples, coarser labels."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unlearnjax.data import fields
from unlearnjax.data.validation import listed, validate, validate_numbers


class Dataset(NamedTuple):
    """A supervised set in memory.

    Attributes:
      train, test: `{'inputs': [N, ...] float32, 'targets': [N], 'index': [N] int32}` plus any
        further scalar fields (an identity, a coarse label; text, too); inputs standardised by the
        training set's mean and standard deviation per channel. Targets are class numbers (int32),
        or numbers (float32) for regression.
      num_classes: C; 1 for regression.
      class_names: C names.
      mean, std: the standardisation, per channel; `inputs * std + mean` is the stored input. Of
        float64 where rounding the mean to float32 would show.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    num_classes: int
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray


def standardised(train: dict, test: dict, class_names: Sequence[str]) -> Dataset:
    """A `Dataset` from raw parts without `index`: inputs standardised by those of `train`.

    As scikit-learn's `StandardScaler`: what is constant in `train`, up to rounding, is centred and
    left unscaled, so that it does not explode where it varies in `test`.

    Args:
      train, test: see `validate`. Tables `[N, D]` are standardised by column, images `[N, H, W, C]`
        (and any with more axes) by channel; `[N, H, W]` are images of one channel, `[N]` is one
        column.
      class_names: C names; one, with floating targets, for regression.

    Raises:
      ValueError: for data that no model can learn from; it names the first bad rows.
    """
    _validate(train, test, len(class_names))
    train, test = _arrays(train), _arrays(test)
    mean, std = _statistics(train["inputs"])

    def part(raw):
        return _typed(renumbered({**raw, "inputs": scaled(raw["inputs"], mean, std)}))

    train, test = part(train), part(test)
    validate_numbers(test["inputs"], "standardised test inputs")  # far from what train has
    return Dataset(train, test, len(class_names), tuple(class_names), mean, std)


def scaled(inputs: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Raw inputs as a `Dataset` of that mean and deviation has them, float32."""
    with np.errstate(over="ignore"):
        return ((inputs - mean) / std).astype(np.float32, copy=False)


def entered(dataset: Dataset) -> Dataset:
    """A data set that was made elsewhere, in the types of a `Dataset` and with an `index`.

    Raises:
      ValueError: for data that no model can learn from; it names the first bad rows.
    """
    if len(dataset.class_names) != dataset.num_classes:
        raise ValueError(
            f"class_names must be num_classes ({dataset.num_classes}) names, got "
            f"{len(dataset.class_names)}"
        )
    _validate(dataset.train, dataset.test, dataset.num_classes)
    train, test = (
        _typed(part if "index" in part else renumbered(part))
        for part in (_arrays(dataset.train), _arrays(dataset.test))
    )
    return dataset._replace(train=train, test=test)


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
    known = sorted(set(dataset.train) & set(dataset.test) - {"inputs", "index", "targets"})
    if field not in known:
        raise ValueError(f"target must be one of the fields {known}, got {field!r}")
    values = list(fields.of(np.concatenate([dataset.train[field], dataset.test[field]])).known)
    if values != list(range(len(values))):
        raise ValueError(f"target {field!r} must have the values 0, 1, ..., got {listed(values)}")

    names = tuple(str(v) for v in range(len(values)))
    return _retargeted(dataset, lambda data: data[field].astype(np.int32), names)


def conditioned(dataset: Dataset) -> Dataset:
    """The same images for what generates them: in [-1, 1], with their class as `condition` `[N]`.

    The smallest and the largest stored value of the training set become -1 and 1, in all channels;
    what the test set has beyond them is clipped. `condition` is an input of a model, `targets` is
    by what forget sets are chosen.

    Raises:
      ValueError: if targets are no classes, or the images have one value alone.
    """
    if dataset.train["targets"].dtype.kind == "f":
        raise ValueError("condition must be a class, but targets are numbers")
    stored = lambda part: part["inputs"] * dataset.std + dataset.mean
    low, high = (float(extreme(stored(dataset.train))) for extreme in (np.min, np.max))
    if low == high:
        raise ValueError(f"images must have more than one value to be scaled, all are {low}")
    shape = np.shape(dataset.mean)
    mean, std = np.full(shape, (low + high) / 2), np.full(shape, (high - low) / 2)

    def part(data):
        inputs = np.clip(scaled(stored(data), mean, std), -1, 1)
        return {**data, "inputs": inputs, "condition": data["targets"].astype(np.int32)}

    return dataset._replace(train=part(dataset.train), test=part(dataset.test), mean=mean, std=std)


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
    if cut == n:
        raise ValueError(f"validation fraction {fraction} of {n} examples leaves none to train on")
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


def _arrays(part: Mapping) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in part.items()}


def _typed(part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Targets int32 or float32, inputs at most float32."""
    targets, inputs = part["targets"], part["inputs"]
    targets = targets.astype(np.int32 if targets.dtype.kind in "iu" else np.float32)
    inputs = inputs.astype(np.float32) if inputs.dtype == np.float64 else inputs
    return {**part, "inputs": inputs, "targets": targets}


def _validate(train: dict, test: dict, num_classes: int) -> None:
    """Each part, and that they are of one kind."""
    for name, part in (("train", train), ("test", test)):
        validate(part, num_classes, name)
    shapes = [np.shape(part["inputs"])[1:] for part in (train, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"test inputs must be of shape {shapes[0]} as in train, got {shapes[1]}")


def _statistics(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per channel; the deviation is 1 where there is none but for rounding."""
    channels = inputs if inputs.ndim not in (1, 3) else inputs[..., None]
    axes = tuple(range(channels.ndim - 1))
    mean = channels.mean(axes, dtype=np.float64)
    std = channels.std(axes, dtype=np.float64)
    # The error bound of a variance by two passes (Chan, Golub, LeVeque, "Algorithms for Computing
    # the Sample Variance", 1983), which is scikit-learn's rule, too.
    count, eps = math.prod(channels.shape[:-1]), np.finfo(np.float64).eps
    std[std**2 <= count * eps * std**2 + (count * eps * mean) ** 2] = 1.0
    narrow = mean.astype(np.float32), std.astype(np.float32)
    # Rounding the mean would shift what varies little about a large one.
    exact = all(
        (np.abs(short - wide) <= 1e-6 * std).all()
        for short, wide in zip(narrow, (mean, std), strict=True)
    )
    return narrow if exact else (mean, std)
