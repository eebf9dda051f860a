"""Data that cannot be learned from: protections of images, and what they cost and give."""

from unlearnjax.protection import mixture
from unlearnjax.protection.budget import budget, ssim
from unlearnjax.protection.convolution import convolutional, draw_filters, filtered
from unlearnjax.protection.types import Protection, validate_pixels

__all__ = [
    "Protection",
    "budget",
    "convolutional",
    "draw_filters",
    "filtered",
    "mixture",
    "ssim",
    "validate_pixels",
]
