"""Deep regression unlearning: a band of target values is forgotten.

    python -m experiments.unlearn --config=configs/regression.py --workdir=/tmp/regression

Diabetes progression of 442 patients (scikit-learn), an MLP, the patients of lowest progression (25
to 75) forgotten, five seeds: about a minute on 2 CPU cores.

Config strings as in configs/unlearn.py: `diabetes,method=blindspot,forget=band:200:350`. Targets
are standardised, bands are in original units.
"""

from ml_collections import ConfigDict, config_dict

from configs import unlearn

_ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 32}
METHODS = {
    "retrain": {},
    "finetune": {**_ADAM, "num_epochs": 5},
    "gradient_ascent": {**_ADAM, "learning_rate": 1e-4, "num_epochs": 5, "max_loss": 1.0},
    "gradient_ascent_plus": {**_ADAM, "num_epochs": 3, "beta": 0.9, "max_loss": 1.0},
    "blindspot": {
        **_ADAM,
        "num_epochs": 5,
        "blind_epochs": 5,
        "feature_weight": 50.0,
        "layer": config_dict.placeholder(str),
    },
    "gaussian_amnesiac": {**_ADAM, "num_epochs": 5, "retain_weight": 1.0},
    "l1_sparse": {**_ADAM, "num_epochs": 5, "gamma": 1e-4},
    "influence": {"alpha": 1.0, "method": "cg", "damping": 0.3, "num_steps": 20},
    "ssd": {"alpha": 2.0, "dampening": 1.0, "importance": "exact", "batch_size": 64},
}


def get_config(arg: str = "") -> ConfigDict:
    arg = unlearn.with_defaults(arg, "diabetes", forget="band:25:75", seeds="5")
    config = unlearn.get_config(arg, dataset="diabetes", methods=METHODS, chosen=tuple(METHODS))
    config.task = "regression"
    config.model.options.hidden = (64, 64)
    config.evaluate.relearn.margin = 0.25
    return config
