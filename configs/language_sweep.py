"""Hyper-parameters of methods on language models, as configs/sweep.py finds those of classifiers.

    python -m experiments.sweep --config=configs/language_sweep.py --workdir=/tmp/language_sweep

Fictitious authors of another seed than those of configs/language.py, one original, one oracle and
up to ten trials a method. Resumable trial by trial; the values that it finds belong into
configs/language.py.

Config strings as in configs/language.py; `forget` names the scenarios, separated by '/', `method`
some of those that have values to be found:

    --config=configs/language_sweep.py:authors,method=npo+simnpo,forget=identity:0+1/random:0.1
"""

from ml_collections import ConfigDict

from configs import language, sweep, unlearn

_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
_STEPS = (10, 20, 40, 80, 160)
_COMMON = {"learning_rate": _RATES, "num_steps": _STEPS}
SPACES = {
    "finetune": {"learning_rate": _RATES, "num_epochs": (2, 5, 10)},
    "gradient_ascent_plus": {"learning_rate": _RATES, "beta": (0.5, 0.8, 0.9, 0.95)},
    "scrub": {"learning_rate": _RATES, "max_epochs": (1, 2, 5)},
    "bad_teacher": {"learning_rate": _RATES, "num_epochs": (2, 5, 10)},
    "ssd": {"alpha": (1.5, 2.0, 4.0, 10.0, 20.0), "dampening": (0.1, 0.3, 1.0)},
    "grad_diff": {**_COMMON, "retain_weight": (0.5, 1.0, 2.0, 5.0)},
    "npo": {**_COMMON, "beta": (0.05, 0.1, 0.5, 1.0), "retain_weight": (0.5, 1.0, 2.0)},
    "simnpo": {**_COMMON, "beta": (2.5, 4.5), "retain_weight": (2.0, 8.0, 20.0)},
    "dpo": {**_COMMON, "beta": (0.05, 0.1, 0.5)},
    "idk": _COMMON,
    "wga": {**_COMMON, "beta": (0.5, 1.0, 5.0)},
    "satimp": _COMMON,
    "undial": {**_COMMON, "beta": (1.0, 3.0, 10.0)},
    "ce_u": _COMMON,
    "rmu": {**_COMMON, "scale": (2.0, 6.5, 20.0), "retain_weight": (1.0, 100.0, 1200.0)},
    "task_vector": {"learning_rate": _RATES, "alpha": (0.25, 0.5, 1.0, 2.0)},
}


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("forget", "method"))
    methods = "+".join(unlearn.spelled_out(own.get("method", "all"), SPACES))
    config = language.get_config(unlearn.with_defaults(rest, "authors", method=methods, seeds="1"))
    config.methods = tuple(method for method in config.methods if method in SPACES)
    if "forget" in own:
        config.scenarios = tuple(map(language.spelled_out, own["forget"].split("/")))
    else:
        config.scenarios = (config.forget,)
    share = config.validation_fraction  # of the authors held out
    config = sweep.searching(config, SPACES)
    config.validation_fraction = share
    return config
