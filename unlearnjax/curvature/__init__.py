"""Curvature of the loss: Fisher diagonal, per-example gradients."""

from unlearnjax.curvature.fisher import batch_gradient_squared, fisher_diagonal, sample_targets
from unlearnjax.curvature.layers import layer_names
from unlearnjax.curvature.per_example import per_example_gradients

__all__ = [
    "batch_gradient_squared",
    "fisher_diagonal",
    "layer_names",
    "per_example_gradients",
    "sample_targets",
]
