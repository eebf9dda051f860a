"""Hyper-parameters of methods on diffusion models, as configs/sweep.py finds those of classifiers.

    python -m experiments.sweep --config=configs/diffusion_sweep.py --workdir=/tmp/diffusion_sweep

Digits, class 3, one original, one oracle and up to ten trials a method, each of which draws an
answer set and has it judged. Resumable trial by trial; the values that it finds belong into
configs/diffusion.py.

Config strings as in configs/diffusion.py; `forget` names the scenarios, separated by '/', `method`
some of those that have values to be found:

    --config=configs/diffusion_sweep.py:digits,method=esd+salun_diffusion,forget=class:3/class:7
"""

from ml_collections import ConfigDict

from configs import diffusion, sweep, unlearn

_RATES = (1e-4, 2e-4, 5e-4, 1e-3)
_SLOW = (1e-5, 2e-5, 5e-5, 1e-4)  # of methods by which no other class is held
_STEPS = (50, 100, 200, 400, 1000)
# The published values are among these, those that go with the pixels for the pixels of a digit.
SPACES = {
    "gradient_ascent": {"learning_rate": _SLOW, "num_epochs": (5, 10, 20)},
    "scrub": {"learning_rate": _RATES, "max_epochs": (1, 2, 6)},
    "bad_teacher": {"learning_rate": _RATES, "num_epochs": (2, 4, 8)},
    "ssd": {"alpha": (1.5, 2.0, 4.0, 10.0, 20.0), "dampening": (0.1, 0.3, 1.0)},
    "salun_diffusion": {
        "learning_rate": _RATES,
        "num_steps": _STEPS,
        "retain_weight": (0.064, 0.3, 1.0),
    },
    "selective_amnesia": {"learning_rate": _RATES, "strength": (6.4, 64.0, 640.0, 6400.0)},
    "esd": {"learning_rate": _SLOW, "num_steps": _STEPS, "eta": (0.5, 1.0, 2.0)},
    "concept_ablation": {"learning_rate": _SLOW, "num_steps": _STEPS, "anchor_weight": (0.0, 1.0)},
    "score_forgetting": {"learning_rate": (1e-5, *_RATES), "forget_weight": (0.01, 0.1, 1.0)},
}


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("forget", "method"))
    methods = "+".join(unlearn.spelled_out(own.get("method", "all"), SPACES))
    config = diffusion.get_config(unlearn.with_defaults(rest, "digits", method=methods))
    config.methods = tuple(method for method in config.methods if method in SPACES)
    config.scenarios = tuple(own.get("forget", "class:3").split("/"))
    return sweep.searching(config, SPACES)
