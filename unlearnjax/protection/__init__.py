"""Data that cannot be learned from: protections of images, and what they cost and give."""

from unlearnjax.protection import mixture, word_embedding
from unlearnjax.protection.budget import budget, ssim
from unlearnjax.protection.clusters import ClusterNoise, clusters, nearest
from unlearnjax.protection.convolution import convolutional, draw_filters, filtered
from unlearnjax.protection.input_aware import InputAware, attack_loss, input_aware, mask_loss
from unlearnjax.protection.noise import added, class_noise, random_noise
from unlearnjax.protection.types import Protection, validate_labels, validate_pixels

__all__ = [
    "ClusterNoise",
    "InputAware",
    "Protection",
    "added",
    "attack_loss",
    "budget",
    "class_noise",
    "clusters",
    "convolutional",
    "draw_filters",
    "filtered",
    "input_aware",
    "mask_loss",
    "mixture",
    "nearest",
    "random_noise",
    "ssim",
    "validate_labels",
    "validate_pixels",
    "word_embedding",
]
