"""Unlearners: constructors that return an `Unlearner`, and the pieces they are made of."""

from unlearnjax.unlearning import objectives, transforms
from unlearnjax.unlearning.chain import chain
from unlearnjax.unlearning.descend import Trace, descend
from unlearnjax.unlearning.finetune import finetune, finetune_last, retrain_last
from unlearnjax.unlearning.gradient_ascent import gradient_ascent, gradient_ascent_plus
from unlearnjax.unlearning.needs import enforce
from unlearnjax.unlearning.retrain import retrain
from unlearnjax.unlearning.ssd import dampen, ssd

__all__ = [
    "Trace",
    "chain",
    "dampen",
    "descend",
    "enforce",
    "finetune",
    "finetune_last",
    "gradient_ascent",
    "gradient_ascent_plus",
    "objectives",
    "retrain",
    "retrain_last",
    "ssd",
    "transforms",
]
