"""Hyper-parameters of every method, found on validation data under a budget.

    python -m experiments.sweep --config=configs/sweep.py --workdir=/tmp/sweep

Digits, ConvNet, three kinds of forget sets: about half an hour on 2 CPU cores, resumable trial by
trial. For each kind it takes the values with the smallest average gap to oracles, on a validation
split, with models and seeds that no report uses; the test set is never looked at. The values it
finds are committed as `configs/tuned/DATASET_MODEL.json` (with a part of the data,
`DATASET_MODEL_TRAIN.json`), which configs/unlearn.py reads:

    cp /tmp/sweep/tuned.json configs/tuned/digits_convnet.json

Config strings as in configs/leaderboard.py, e.g. `fashion_mnist,train=3000,test=2000`. `search` is
'grid' or 'random'; a method stops after `max_trials`, or when its trials have cost `budget` times
what retraining costs, in seconds or FLOPs (`budget_unit`). Values whose request costs more than
`max_ratio` retrainings are not taken.
"""

from ml_collections import ConfigDict

from configs import leaderboard, unlearn

_RATES = {"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)}
SPACES = {
    "finetune": {"learning_rate": (1e-3, 3e-3, 1e-2), "num_epochs": (2, 4)},
    "finetune_last": {"learning_rate": (1e-3, 3e-3, 1e-2), "num_epochs": (2, 4)},
    "retrain_last": {"learning_rate": (1e-3, 3e-3, 1e-2), "num_epochs": (3, 6)},
    "gradient_ascent": {"learning_rate": (1e-4, 1e-3, 3e-3, 1e-2, 3e-2), "num_epochs": (1, 5)},
    "gradient_ascent_plus": {**_RATES, "beta": (0.9, 0.99)},
    "random_label": {**_RATES, "num_epochs": (1, 3), "over": ("union", "alternate")},
    "salun": {**_RATES, "num_epochs": (1, 3), "over": ("union", "alternate")},
    "scrub": {**_RATES, "max_epochs": (1, 2)},
    "scrub_rewind": {**_RATES, "alpha": (0.001, 0.1)},
    "bad_teacher": {**_RATES, "num_epochs": (1, 3)},
    "unsir": {"learning_rate": (5e-4, 2e-3, 5e-3, 2e-2), "retain_fraction": (0.3, 1.0)},
    "boundary_shrink": {"learning_rate": (1e-5, 5e-5, 2e-4), "num_epochs": (1, 10)},
    "boundary_expand": {"learning_rate": (1e-5, 1e-4, 2e-4, 5e-4), "num_epochs": (1, 10)},
    "fisher_forgetting": {"alpha": (1e-9, 1e-8, 1e-7, 3e-7, 1e-6, 3e-6)},
    "influence": {"alpha": (0.5, 1.0, 2.0, 5.0), "damping": (0.02, 0.05)},
    "l1_sparse": {"learning_rate": (1e-3, 3e-3), "gamma": (1e-5, 1e-4, 3e-4), "num_epochs": (3, 5)},
    "prune_finetune": {"learning_rate": (1e-3, 3e-3), "sparsity": (0.5, 0.8, 0.9)},
    "iterative_prune_finetune": {"learning_rate": (1e-3, 3e-3, 1e-2), "sparsity": (0.5, 0.8)},
    "laf": {
        "learning_rate": (3e-4, 1e-3, 2e-3),
        "align_rate": (2.0, 5.0),
        "temperature": (5.0, 20.0),
    },
    "just_in_time": {"learning_rate": (3e-5, 1e-4, 2e-4, 3e-4, 5e-4), "sigma": (0.5, 1.0)},
    "sisa": {"learning_rate": (1e-3, 2e-3, 4e-3)},
    "s3t": {"learning_rate": (1e-3, 3e-3, 6e-3)},
    "acu": {"gamma": (1.0, 10.0, 100.0)},
    "ssd": {"alpha": (1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 20.0), "dampening": (0.3, 1.0)},
    "loss_free_ssd": {"alpha": (1.2, 1.5, 2.0, 3.0, 5.0, 10.0), "dampening": (0.3, 1.0)},
    "adaptive_ssd": {"dampening": (0.1, 0.3, 1.0, 3.0)},
}


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("method",))
    methods = "+".join(unlearn.spelled_out(own.get("method", "all"), SPACES))
    arg = unlearn.with_defaults(rest, "digits", method=methods, seeds="2")
    config = leaderboard.get_config(arg)
    del config.rank, config.tuned
    return searching(config, SPACES)


def searching(config: ConfigDict, spaces: dict[str, dict]) -> ConfigDict:
    """The config of a run as that of a search through `spaces` for its scenarios."""
    config.seed = 1000  # reports count their seeds from 0
    config.validation_fraction = 0.2
    config.spaces = ConfigDict(spaces)
    config.search = "random"
    config.max_trials = 10
    config.budget = 20.0
    config.budget_unit = "seconds"
    config.max_ratio = 1.0
    return config
