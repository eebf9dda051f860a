"""Did a language model forget? Audits of its answers, from one teacher-forced pass or its text.

Margins of `tasks.language_modelling` are numbers per example as any task's: `audit.klom`,
`audit.u_lira` and `audit.relearn_time` work on them as they are. Exact memorisation and extraction
strength are the task's metrics `accuracy` and `extraction`, see `training.evaluate`. Beside every
number stands what an oracle scores, which is not 0: a model that never saw an author still guesses.
"""

from unlearnjax.audit.language.answers import continuations, losses, observed
from unlearnjax.audit.language.membership import auc, loss_by_zlib, privleak, zlib_bytes
from unlearnjax.audit.language.rouge import longest_common_subsequence, rouge_l
from unlearnjax.audit.language.tokens import min_k, probability, standardised
from unlearnjax.audit.language.truth import (
    Calibrated,
    calibrated_forget_quality,
    forget_quality,
    forget_truth,
    log_truth_ratio,
    retain_truth,
)
from unlearnjax.audit.language.utility import (
    choice_accuracy,
    choice_probability,
    model_utility,
    retain_utility,
)

__all__ = [
    "Calibrated",
    "auc",
    "calibrated_forget_quality",
    "choice_accuracy",
    "choice_probability",
    "continuations",
    "forget_quality",
    "forget_truth",
    "log_truth_ratio",
    "longest_common_subsequence",
    "loss_by_zlib",
    "losses",
    "min_k",
    "model_utility",
    "observed",
    "privleak",
    "probability",
    "retain_truth",
    "retain_utility",
    "rouge_l",
    "standardised",
    "zlib_bytes",
]
