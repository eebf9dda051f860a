"""Did it forget? Accuracy and loss, membership inference, cost."""

from unlearnjax.audit.cost import Compiled, Cost, compile_costed, flops, timed
from unlearnjax.audit.membership import membership_inference
from unlearnjax.audit.summary import COLUMNS, summarise

__all__ = [
    "COLUMNS",
    "Compiled",
    "Cost",
    "compile_costed",
    "flops",
    "membership_inference",
    "summarise",
    "timed",
]
