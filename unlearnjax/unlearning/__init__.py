"""Unlearners: constructors that return an `Unlearner`, and the pieces they are made of."""

from unlearnjax.analytic import acu
from unlearnjax.unlearning import objectives, sequences, transforms
from unlearnjax.unlearning.at_layer import at_layer
from unlearnjax.unlearning.backdoor.exposure import (
    activation_prune,
    clean_unlearning,
    confusion_finetune,
    neuron_perturbation,
)
from unlearnjax.unlearning.backdoor.removal import (
    on_part,
    recover_prune,
    rnp,
    trigger_unlearning,
)
from unlearnjax.unlearning.chain import chain
from unlearnjax.unlearning.classification.boundary import boundary_expand, boundary_shrink
from unlearnjax.unlearning.classification.fisher_forgetting import fisher_forgetting
from unlearnjax.unlearning.classification.relabel import (
    other_classes,
    random_label,
    relabelled,
    salun,
)
from unlearnjax.unlearning.classification.unsir import unsir
from unlearnjax.unlearning.confined import confined
from unlearnjax.unlearning.descend import Trace, descend, descend_parts
from unlearnjax.unlearning.diffusion.concept_ablation import concept_ablation
from unlearnjax.unlearning.diffusion.esd import esd
from unlearnjax.unlearning.diffusion.few_shot import few_shot_erasure
from unlearnjax.unlearning.diffusion.forget_me_not import forget_me_not
from unlearnjax.unlearning.diffusion.salun import salun_diffusion
from unlearnjax.unlearning.diffusion.score_forgetting import ScoreForgettingMemory, score_forgetting
from unlearnjax.unlearning.diffusion.selective_amnesia import selective_amnesia
from unlearnjax.unlearning.diffusion.uce import uce
from unlearnjax.unlearning.distil import bad_teacher, scrub
from unlearnjax.unlearning.finetune import finetune, finetune_last, retrain_last
from unlearnjax.unlearning.gradient_ascent import gradient_ascent, gradient_ascent_plus
from unlearnjax.unlearning.graph.d2dgn import d2dgn, layer_distance
from unlearnjax.unlearning.graph.edit_only import edit_only
from unlearnjax.unlearning.graph.eraser import communities, graph_eraser
from unlearnjax.unlearning.graph.gnn_delete import gnn_delete, operated
from unlearnjax.unlearning.graph.influence import graph_influence
from unlearnjax.unlearning.influence import influence
from unlearnjax.unlearning.laf import laf
from unlearnjax.unlearning.language.arithmetic import task_vector
from unlearnjax.unlearning.language.ascent import grad_diff, satimp, wga
from unlearnjax.unlearning.language.preference import dpo, idk, npo, simnpo
from unlearnjax.unlearning.language.redistribution import ce_u, undial
from unlearnjax.unlearning.language.steering import rmu
from unlearnjax.unlearning.lipschitz import just_in_time
from unlearnjax.unlearning.matching import dm_direct, dmm, match_outputs, oracle_matching
from unlearnjax.unlearning.needs import enforce
from unlearnjax.unlearning.parts import run_parts
from unlearnjax.unlearning.regression import blindspot, gaussian_amnesiac
from unlearnjax.unlearning.retrain import reinitialise, retrain
from unlearnjax.unlearning.s3t import S3TMemory, s3t
from unlearnjax.unlearning.saliency import salient
from unlearnjax.unlearning.sisa import Partition, SISAMemory, averaged, sisa
from unlearnjax.unlearning.sparse import (
    iterative_prune,
    iterative_prune_finetune,
    keep_zeros,
    l1_sparse,
    prune,
    prune_finetune,
    sparsity_of,
)
from unlearnjax.unlearning.ssd import adaptive_alpha, adaptive_ssd, dampen, loss_free_ssd, ssd
from unlearnjax.unlearning.teachers import incompetent_model, original_model

__all__ = [
    "Partition",
    "S3TMemory",
    "SISAMemory",
    "ScoreForgettingMemory",
    "Trace",
    "activation_prune",
    "acu",
    "adaptive_alpha",
    "adaptive_ssd",
    "at_layer",
    "averaged",
    "bad_teacher",
    "blindspot",
    "boundary_expand",
    "boundary_shrink",
    "ce_u",
    "chain",
    "clean_unlearning",
    "communities",
    "concept_ablation",
    "confined",
    "confusion_finetune",
    "d2dgn",
    "dampen",
    "descend",
    "descend_parts",
    "dm_direct",
    "dmm",
    "dpo",
    "edit_only",
    "enforce",
    "esd",
    "few_shot_erasure",
    "finetune",
    "finetune_last",
    "fisher_forgetting",
    "forget_me_not",
    "gaussian_amnesiac",
    "gnn_delete",
    "grad_diff",
    "gradient_ascent",
    "gradient_ascent_plus",
    "graph_eraser",
    "graph_influence",
    "idk",
    "incompetent_model",
    "influence",
    "iterative_prune",
    "iterative_prune_finetune",
    "just_in_time",
    "keep_zeros",
    "l1_sparse",
    "laf",
    "layer_distance",
    "loss_free_ssd",
    "match_outputs",
    "neuron_perturbation",
    "npo",
    "objectives",
    "on_part",
    "operated",
    "oracle_matching",
    "original_model",
    "other_classes",
    "prune",
    "prune_finetune",
    "random_label",
    "recover_prune",
    "reinitialise",
    "relabelled",
    "retrain",
    "retrain_last",
    "rmu",
    "rnp",
    "run_parts",
    "s3t",
    "salient",
    "salun",
    "salun_diffusion",
    "satimp",
    "score_forgetting",
    "scrub",
    "selective_amnesia",
    "sequences",
    "simnpo",
    "sisa",
    "sparsity_of",
    "ssd",
    "task_vector",
    "transforms",
    "trigger_unlearning",
    "uce",
    "undial",
    "unsir",
    "wga",
]
