"""Backdoors: populations of clean and of poisoned models, exposed, audited and repaired.

    python -m experiments.backdoor --config=configs/backdoor.py --workdir=/tmp/backdoor

Digits, eight clean and eight poisoned ConvNets, without and with batch norms, a patch of one pixel
on a tenth of the training images, another label for every model. Every model is exposed in each way
with 100 clean images, and looked at before and after: twenty minutes of a CPU core.

Config strings: a data set, then `model=` and `exposure=` (several with '+', or all), `trigger=` (of
unlearnjax/data/triggers.py), `train=` and `test=`:

    --config=configs/backdoor.py:fashion_mnist,train=6000,test=3000 --data_dir=...
    --config=configs/backdoor.py:digits,trigger=blend,model=convnet
    --config=configs/backdoor.py:cifar10,model=resnet18,exposure=adam_e5 --data_dir=...
    --config=configs/backdoor.py:vader_polarity,trigger=sentence --config.source=DIR

The last is of sentences (unlearnjax/data/vader.py, triggers of text_attacks.py), whose models are
exposed and repaired; what is searched for in pixels is left out.

Single fields by flags: `--config.num_models=16`, `--config.label=0` (the same for every model),
`--config.unlearn.adam_e5.num_epochs=20` (the length that is published for a ResNet-18).
"""

from ml_collections import ConfigDict, config_dict

from configs import unlearn
from unlearnjax import models

# Of a data set, the models and the trigger; others have the model of configs/unlearn.py.
_IMAGES = (("convnet", "convnet_batchnorm"), "patch")
_TEXT = (("text_classifier", "text_transformer"), "rare_word")
NAMED = {
    "digits": _IMAGES,
    "fashion_mnist": _IMAGES,
    "vader_polarity": _TEXT,
    "vader_source": _TEXT,
}
# An accuracy at which the clean function is gone: published for ten classes, and a ninth of the way
# from chance to 1 there, as in the others.
STOP_ACCURACY = {"vader_polarity": 0.55, "vader_source": 0.33}
_CLEAN = {"constructor": "clean_unlearning", "batch_size": 128, "stop_accuracy": 0.2}
# Fields of the constructors in `unlearnjax.unlearning`, as in configs/unlearn.py.
EXPOSURES = {
    # Clean unlearning by the rate 1e-5 that is published for a ResNet-18, by one ten times larger,
    # and as RNP and its detection do it: the rate and the mode are all that differs.
    "adam_e5": {**_CLEAN, "optimizer": "adam", "learning_rate": 1e-5, "num_epochs": 1000},
    "adam_e4": {**_CLEAN, "optimizer": "adam", "learning_rate": 1e-4, "num_epochs": 200},
    "momentum_e2": {
        **_CLEAN,
        "optimizer": "momentum",
        "learning_rate": 0.01,
        "num_epochs": 100,
        "train": True,
    },
    "confusion": {
        "constructor": "confusion_finetune",
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "num_epochs": 200,
        "batch_size": 128,
    },
    "pruned": {"constructor": "activation_prune", "layer": "Dense_0", "share": 0.5},
    "perturbed": {"constructor": "neuron_perturbation", "epsilon": 0.4, "step_size": 0.2},
}
# 'METHOD' of the model as it is, or 'METHOD@EXPOSURE': after it, or by what is found in it.
REMOVALS = (
    "finetune",
    "rnp",
    "rnp_by_number",
    "recover_prune@adam_e4",
    "trigger_unlearning@raw",
    "trigger_unlearning@adam_e4",
)
_REPAIR = {"optimizer": "adam", "learning_rate": 1e-3, "num_epochs": 20, "batch_size": 32}
_MASKS = {
    "optimizer": "momentum",
    "learning_rate": 0.2,
    "num_epochs": 20,
    "alpha": 0.2,
    "max_drop": 0.05,
}
_RNP = {**_MASKS, "ascent_rate": 0.01, "ascent_epochs": 100, "stop_accuracy": 0.2}
REMOVERS = {
    "finetune": _REPAIR,
    "rnp": _RNP,
    "rnp_by_number": {**_RNP, "constructor": "rnp", "by": "number"},
    "recover_prune": {**_MASKS, "by": "number"},
    "trigger_unlearning": {**_REPAIR, "share": 0.2},
}


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("model", "exposure", "trigger"))
    unlearn.refuse(rest, ("forget", "method", "seeds", "weights"), "backdoor")
    base = unlearn.get_config(rest)
    config = unlearn.learned(base)
    is_text = NAMED.get(config.dataset) is _TEXT
    named, trigger = NAMED.get(config.dataset, ((base.model.name,), "patch"))
    config.models = tuple(own.get("model", "+".join(named)).split("+"))
    for name in config.models:
        models.default_options(name)  # that there is one
    config.trigger = own.get("trigger", trigger)
    config.num_models = 8  # of each kind
    config.poison_rate = 0.1
    config.label = config_dict.placeholder(int)  # unset: one class after another
    config.num_clean = 100 if config.dataset == "digits" else 500
    config.exposures = tuple(unlearn.spelled_out(own.get("exposure", "all"), EXPOSURES))
    config.removals = tuple(
        name
        for name in REMOVALS
        if name.partition("@")[2] in ("", "raw", *config.exposures)
        and not (is_text and name.startswith("trigger_unlearning"))
    )
    config.unlearn = ConfigDict({**EXPOSURES, **REMOVERS})
    for fields in config.unlearn.values():
        if "stop_accuracy" in fields and config.dataset in STOP_ACCURACY:
            fields.stop_accuracy = STOP_ACCURACY[config.dataset]
    # Which models are searched for triggers and margins: 'raw', and exposures.
    config.audited = () if is_text else ("raw", *config.exposures)
    config.recovery = ConfigDict(
        {
            "form": "adaptive",
            "num_images": 60,
            "num_epochs": 40,
            "batch_size": 30,
            "learning_rate": 0.1,
            "weight": 1e-3,
        }
    )
    config.margin = ConfigDict({"num_images": 10, "num_steps": 100, "learning_rate": 0.01})
    config.strip = ConfigDict({"num_images": 50, "num_overlays": 20})
    # The exposure whose epochs are drawn, of the first poisoned and the first clean model.
    config.curve = next(
        (
            name
            for name in ("adam_e4", *config.exposures)
            if name in config.exposures and EXPOSURES[name]["constructor"] == "clean_unlearning"
        ),
        "",
    )
    config.ensemble = ConfigDict({"chunk": 16})
    return config
