"""Model + loss + metrics -> Task."""

from unlearnjax.tasks.adapters import Model, from_linen, from_nnx
from unlearnjax.tasks.classification import classification, margin

__all__ = ["Model", "classification", "from_linen", "from_nnx", "margin"]
