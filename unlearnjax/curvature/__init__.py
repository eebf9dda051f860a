"""Curvature of the loss: Fisher diagonal and trace, per-example gradients, Hessian products."""

from unlearnjax.curvature.ekfac import EKFAC, ekfac, ekfac_solve
from unlearnjax.curvature.fisher import (
    batch_gradient_squared,
    fisher_diagonal,
    output_sensitivity,
    sample_targets,
)
from unlearnjax.curvature.hessian import (
    INVERSE_METHODS,
    hessian_vector_product,
    inverse_hessian_vector_product,
    mean_gradient,
)
from unlearnjax.curvature.per_example import per_example_gradients
from unlearnjax.curvature.trace import fisher_trace_shares, squared_gradient_norms

__all__ = [
    "EKFAC",
    "INVERSE_METHODS",
    "batch_gradient_squared",
    "ekfac",
    "ekfac_solve",
    "fisher_diagonal",
    "fisher_trace_shares",
    "hessian_vector_product",
    "inverse_hessian_vector_product",
    "mean_gradient",
    "output_sensitivity",
    "per_example_gradients",
    "sample_targets",
    "squared_gradient_norms",
]
