"""Data sets, forget sets, batches, augmentation. The only room that reads data from disk."""

from unlearnjax.data import forget_sets
from unlearnjax.data.augment import pad_crop_flip
from unlearnjax.data.batching import (
    epoch_order,
    num_examples,
    pad_indices,
    position,
    steps_per_epoch,
    take,
    validate_batch_size,
)
from unlearnjax.data.loading import Dataset, builder, fetcher, load, split_validation

__all__ = [
    "Dataset",
    "builder",
    "epoch_order",
    "fetcher",
    "forget_sets",
    "load",
    "num_examples",
    "pad_crop_flip",
    "pad_indices",
    "position",
    "split_validation",
    "steps_per_epoch",
    "take",
    "validate_batch_size",
]
