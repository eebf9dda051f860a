"""Unlearners: constructors that return an `Unlearner`, and the pieces they are made of."""

from unlearnjax.unlearning import objectives, transforms
from unlearnjax.unlearning.chain import chain
from unlearnjax.unlearning.classes import boundary_expand, unsir
from unlearnjax.unlearning.descend import Trace, descend
from unlearnjax.unlearning.distil import bad_teacher, scrub
from unlearnjax.unlearning.finetune import finetune, finetune_last, retrain_last
from unlearnjax.unlearning.gradient_ascent import gradient_ascent, gradient_ascent_plus
from unlearnjax.unlearning.influence import fisher_forgetting, influence
from unlearnjax.unlearning.lipschitz import just_in_time
from unlearnjax.unlearning.needs import enforce
from unlearnjax.unlearning.relabel import boundary_shrink, random_label, relabelled, salun
from unlearnjax.unlearning.retrain import retrain
from unlearnjax.unlearning.sisa import SISAMemory, averaged, sisa
from unlearnjax.unlearning.sparse import keep_zeros, l1_sparse, prune, prune_finetune, sparsity_of
from unlearnjax.unlearning.ssd import adaptive_alpha, adaptive_ssd, dampen, loss_free_ssd, ssd

__all__ = [
    "SISAMemory",
    "Trace",
    "adaptive_alpha",
    "adaptive_ssd",
    "averaged",
    "bad_teacher",
    "boundary_expand",
    "boundary_shrink",
    "chain",
    "dampen",
    "descend",
    "enforce",
    "finetune",
    "finetune_last",
    "fisher_forgetting",
    "gradient_ascent",
    "gradient_ascent_plus",
    "influence",
    "just_in_time",
    "keep_zeros",
    "l1_sparse",
    "loss_free_ssd",
    "objectives",
    "prune",
    "prune_finetune",
    "random_label",
    "relabelled",
    "retrain",
    "retrain_last",
    "salun",
    "scrub",
    "sisa",
    "sparsity_of",
    "ssd",
    "transforms",
    "unsir",
]
