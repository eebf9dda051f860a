"""Closed-form learning and unlearning: a ridge regression that takes data in and gives it back.

Two forms of one state, told apart by their type; every function takes either:

  InverseState  weight and inverse autocorrelation: the papers' form, O(n D^2) per block of n rows
  GramState     weight, autocorrelation and moment: exact sums, O(D^3) per call, no drift

Both compute in float64; `precision` says for which scales of features that is right. The gram form
carries further: rows that nearly determine their own prediction (fewer rows than features, raw
pixels, a small gamma) can only be forgotten in it.
"""

from unlearnjax.analytic.certificate import certificate, digest
from unlearnjax.analytic.features import expand, one_hot, random_projection
from unlearnjax.analytic.gram import GramState
from unlearnjax.analytic.inverse import InverseState
from unlearnjax.analytic.recursive import (
    FORMS,
    forget,
    forget_class,
    grow,
    init,
    learn,
    leave_one_out,
    predict,
    residual,
    solve,
    try_forget,
)
from unlearnjax.analytic.unlearner import acu

__all__ = [
    "FORMS",
    "GramState",
    "InverseState",
    "acu",
    "certificate",
    "digest",
    "expand",
    "forget",
    "forget_class",
    "grow",
    "init",
    "learn",
    "leave_one_out",
    "one_hot",
    "predict",
    "random_projection",
    "residual",
    "solve",
    "try_forget",
]
