"""Corrective unlearning: part of the training data is corrupted, and only some of it is known.

    python -m experiments.unlearn --config=configs/corrective.py --workdir=/tmp/corrective

Digits, ConvNet, 130 poisoned images (a bright corner and the label 0) or 130 confused ones (labels
of 3 and 5 swapped), of which a tenth, a half or all are known, three seeds: about ten minutes on 2
CPU cores. Methods are ranked by their distance from oracles, trained without any corrupted
example, in corrected accuracy (on test images with the trigger; of the confused classes) and in
accuracy on the clean test set.

Config strings as in configs/leaderboard.py, e.g. `fashion_mnist,train=5000,forget=poison:500:0.5`.
Other triggers and target rules follow, e.g. `forget=poison:130:0.5:blend:all_to_all` or
`poison:100:0.5:sinusoid:clean_label`, see unlearnjax/data/corruption.py; of text
`vader_polarity,forget=poison:720:0.5:sentence` with `--config.source=DIR`.
Methods may also be the defences against backdoors of `DEFENCES`, `method=rnp+finetune`: they are
not told what is poisoned, and take the validation data for a clean set.
"""

from ml_collections import ConfigDict

from configs import backdoor, leaderboard, unlearn

SCENARIOS = (
    "poison:130:0.1/poison:130:0.5/poison:130:1.0/"
    "confusion:3+5:130:0.1/confusion:3+5:130:0.5/confusion:3+5:130:1.0"
)
METHODS = (
    "retrain",  # "EU": exact, for the part that is known
    "finetune",
    "gradient_ascent_plus",
    "random_label",
    "salun",
    "scrub",
    "bad_teacher",
    "influence",
    "l1_sparse",
    "laf",
    "ssd",
    "adaptive_ssd",
)
# Beside those of configs/unlearn.py.
DEFENCES = {
    "rnp": {
        **backdoor.REMOVERS["rnp_by_number"],
        "batch_size": 128,
        "clean": "validation",
    },
}


def get_config(arg: str = "") -> ConfigDict:
    arg = unlearn.with_defaults(
        arg, "digits", method="+".join(METHODS), forget=SCENARIOS, seeds="3"
    )
    config = leaderboard.get_config(arg, unlearn.METHODS | DEFENCES)
    config.rank = "corrective_gap"
    config.columns = ("unseen_accuracy", "corrective_gap")
    return config
