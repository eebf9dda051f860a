"""Has a model a backdoor, for which class, and what opens it?

Audits of models are of `predict: pixels [N, H, W, C] -> logits [N, C]`, a pure function of pixels
in [0, 1], in which triggers are: recovery in another range than that of the attack finds nothing,
or everything. Statistics say something only beside those of clean models that were treated alike.
"""

from unlearnjax.audit.backdoor.detection import (
    ANOMALY_INDEX,
    MARGIN_P_VALUE,
    SHARE_VARIANCE,
    anomaly_index,
    attack_success,
    class_shares,
    flagged,
    margin_p_value,
    max_margin,
    strip_entropy,
)
from unlearnjax.audit.backdoor.recovery import FORMS, Recovered, recover_trigger, recover_triggers

__all__ = [
    "ANOMALY_INDEX",
    "FORMS",
    "MARGIN_P_VALUE",
    "SHARE_VARIANCE",
    "Recovered",
    "anomaly_index",
    "attack_success",
    "class_shares",
    "flagged",
    "margin_p_value",
    "max_margin",
    "recover_trigger",
    "recover_triggers",
    "strip_entropy",
]
