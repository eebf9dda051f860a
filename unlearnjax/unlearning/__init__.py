"""Unlearners: constructors that return an `Unlearner`, and the pieces they are made of."""

from unlearnjax.unlearning.descend import descend
from unlearnjax.unlearning.finetune import finetune
from unlearnjax.unlearning.gradient_ascent import bounded_ascent, gradient_ascent
from unlearnjax.unlearning.needs import enforce
from unlearnjax.unlearning.retrain import retrain
from unlearnjax.unlearning.ssd import dampen, ssd

__all__ = [
    "bounded_ascent",
    "dampen",
    "descend",
    "enforce",
    "finetune",
    "gradient_ascent",
    "retrain",
    "ssd",
]
