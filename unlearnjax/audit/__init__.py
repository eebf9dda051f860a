"""Did it forget? Accuracies, membership inference, distances to the oracle, relearning, cost."""

from unlearnjax.audit import alignment, backdoor, canvas, generation, language, links, regression
from unlearnjax.audit.cost import (
    Compiled,
    Cost,
    bytes_accessed,
    compile_costed,
    compile_traced,
    flops,
    stored_bytes,
    timed,
)
from unlearnjax.audit.distances import (
    activation_distance,
    jensen_shannon,
    layer_distances,
    zero_retrain_forgetting,
)
from unlearnjax.audit.forgetting_quality import (
    challenge_score,
    example_epsilons,
    forgetting_quality,
    forgetting_quality_null,
)
from unlearnjax.audit.gaps import average_gap, nomus, tug_of_war
from unlearnjax.audit.klom import ENOUGH_MODELS as _ENOUGH_FOR_KLOM
from unlearnjax.audit.klom import klom, noise_floor
from unlearnjax.audit.likelihood_ratio import ENOUGH_MODELS as _ENOUGH_FOR_LIRA
from unlearnjax.audit.likelihood_ratio import lira, rates, rmia, u_lira, u_lira_scores
from unlearnjax.audit.membership import (
    attack_scores,
    auc,
    membership_efficacy,
    membership_inference,
)
from unlearnjax.audit.probing import linear_probe
from unlearnjax.audit.relearning import anamnesis_index, relearn_time
from unlearnjax.audit.summary import COLUMNS, against_oracles, summarise

# Below so many models on each side an audit warns.
ENOUGH_MODELS = {"klom": _ENOUGH_FOR_KLOM, "u_lira": _ENOUGH_FOR_LIRA}

__all__ = [
    "COLUMNS",
    "ENOUGH_MODELS",
    "Compiled",
    "Cost",
    "activation_distance",
    "against_oracles",
    "alignment",
    "anamnesis_index",
    "attack_scores",
    "auc",
    "average_gap",
    "backdoor",
    "bytes_accessed",
    "canvas",
    "challenge_score",
    "compile_costed",
    "compile_traced",
    "example_epsilons",
    "flops",
    "forgetting_quality",
    "forgetting_quality_null",
    "generation",
    "jensen_shannon",
    "klom",
    "language",
    "layer_distances",
    "linear_probe",
    "links",
    "lira",
    "membership_efficacy",
    "membership_inference",
    "noise_floor",
    "nomus",
    "rates",
    "regression",
    "relearn_time",
    "rmia",
    "stored_bytes",
    "summarise",
    "timed",
    "tug_of_war",
    "u_lira",
    "u_lira_scores",
    "zero_retrain_forgetting",
]
