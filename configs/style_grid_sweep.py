"""Hyper-parameters of methods on models that read prompts, as configs/sweep.py finds them.

    python -m experiments.sweep --config=configs/style_grid_sweep.py --workdir=/tmp/style_grid_sweep

The style and the object of configs/style_grid.py, each with one original, one oracle and up to ten
trials a method; a trial draws an answer set, which two pairs of judges look at. The text encoder
and the judges are trained once. Resumable trial by trial; the values that it finds belong into
configs/style_grid.py.

Config strings as in configs/style_grid.py; `forget` names the scenarios, `method` some of those
that have values to be found:

    --config=configs/style_grid_sweep.py:digits,method=esd_x+uce,forget=style:neon
"""

from ml_collections import ConfigDict

from configs import style_grid, sweep, unlearn

_RATES = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3)
_SLOW = (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4)  # of what nothing else is held by
_STEPS = (50, 100, 200, 500)
_ESD = {"learning_rate": _SLOW, "num_steps": _STEPS, "eta": (0.5, 1.0, 2.0)}
# The published values are among these, those that go with the pixels for the pixels of a digit.
SPACES = {
    "finetune": {"learning_rate": _RATES, "num_epochs": (2, 5, 10)},
    "gradient_ascent": {"learning_rate": (1e-5, 2e-5, 5e-5, 1e-4), "num_epochs": (1, 3, 5, 10)},
    "esd_x": _ESD,
    "esd_u": _ESD,
    "concept_ablation": {
        "learning_rate": (1e-5, 2e-5, *_RATES),
        "num_steps": _STEPS,
        "anchor_weight": (0.0, 0.2, 1.0),
    },
    "forget_me_not": {
        "learning_rate": (2e-6, 2e-5, 1e-4, 2e-4, 5e-4),
        "num_steps": (35, 100, 300),
    },
    "uce": {
        "erase_weight": (0.01, 0.05, 1.0),
        "preserve_weight": (0.1, 1.0),
        "ridge": (0.5, 1.0, 10.0),
    },
    "selective_amnesia": {
        "learning_rate": (1e-5, *_RATES),
        "num_steps": _STEPS,
        "strength": (50.0, 640.0, 6400.0),
    },
    "salun_diffusion": {
        "learning_rate": (1e-5, *_RATES),
        "num_steps": _STEPS,
        "retain_weight": (0.192, 1.0),
    },
    "few_shot_erasure": {
        "learning_rate": (1e-5, 5e-5, 1e-4, 2e-4, 5e-4),
        "num_steps": (4, 10, 20, 40),
    },
}


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("method",))
    methods = "+".join(unlearn.spelled_out(own.get("method", "all"), SPACES))
    config = style_grid.get_config(unlearn.with_defaults(rest, "digits", method=methods, seeds="1"))
    config.methods = tuple(method for method in config.methods if method in SPACES)
    config.scenarios = config.get("scenarios", (config.forget,))
    if "rank" in config:  # of leaderboards
        del config.rank, config.tuned
    return sweep.searching(config, SPACES)
