"""Data sets, forget sets, batches, augmentation. The only room that reads data from disk."""

from unlearnjax.data import authors, corruption, fields, forget_sets, graphs, local, text, tofu
from unlearnjax.data.augment import pad_crop_flip
from unlearnjax.data.batching import (
    epoch_order,
    num_examples,
    numeric,
    pad_indices,
    position,
    steps_per_epoch,
    take,
    validate_batch_size,
    weights,
)
from unlearnjax.data.dataset import (
    Dataset,
    conditioned,
    split_validation,
    standardised,
    subsample,
    with_superclasses,
    with_target,
)
from unlearnjax.data.loading import builder, fetcher, load
from unlearnjax.data.validation import validate

__all__ = [
    "Dataset",
    "authors",
    "builder",
    "conditioned",
    "corruption",
    "epoch_order",
    "fetcher",
    "fields",
    "forget_sets",
    "graphs",
    "load",
    "local",
    "num_examples",
    "numeric",
    "pad_crop_flip",
    "pad_indices",
    "position",
    "split_validation",
    "standardised",
    "steps_per_epoch",
    "subsample",
    "take",
    "text",
    "tofu",
    "validate",
    "validate_batch_size",
    "weights",
    "with_superclasses",
    "with_target",
]
