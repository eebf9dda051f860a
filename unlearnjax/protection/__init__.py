"""Data that cannot be learned from: protections of images, and what they cost and give."""

from unlearnjax.protection import mixture
from unlearnjax.protection.budget import budget, ssim
from unlearnjax.protection.clusters import ClusterNoise, clusters, nearest
from unlearnjax.protection.convolution import convolutional, draw_filters, filtered
from unlearnjax.protection.noise import added, class_noise, random_noise
from unlearnjax.protection.types import Protection, validate_labels, validate_pixels

__all__ = [
    "ClusterNoise",
    "Protection",
    "added",
    "budget",
    "class_noise",
    "clusters",
    "convolutional",
    "draw_filters",
    "filtered",
    "mixture",
    "nearest",
    "random_noise",
    "ssim",
    "validate_labels",
    "validate_pixels",
]
