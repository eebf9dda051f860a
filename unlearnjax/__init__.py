"""unlearnjax: machine unlearning in JAX."""

from unlearnjax import (
    analytic,
    attribution,
    curvature,
    diffusion,
    language,
    models,
    parallel,
    protection,
    selection,
    tasks,
    training,
    trees,
    unlearning,
)
from unlearnjax.types import Batch, Data, Request, Task, Unlearner, Variables

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Data",
    "Request",
    "Task",
    "Unlearner",
    "Variables",
    "analytic",
    "attribution",
    "curvature",
    "diffusion",
    "language",
    "models",
    "parallel",
    "protection",
    "selection",
    "tasks",
    "training",
    "trees",
    "unlearning",
]
