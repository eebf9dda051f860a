"""Attribution, and unlearning by it, judged against hundreds of oracles.

    python -m experiments.datamodel --config=configs/datamodel.py --workdir=/tmp/datamodel

Trains models on random subsets of the training data, predicts from them (or from gradients) what
training on other subsets gives (LDS), and unlearns ten forget sets with datamodel matching and its
rivals, 100 models of each, audited by KLoM, U-LIRA and RMIA against 100 oracles. Digits, MLP: about
half an hour on 2 CPU cores, resumable chunk by chunk.

Config strings as in configs/unlearn.py; `attributor`, `method` and `forget` take several with '+',
`forget=` in the place of '+' within a forget set '/':

    --config=configs/datamodel.py:digits,attributor=lasso+trak,method=none
    --config=configs/datamodel.py:digits,method=dmm+scrub,forget=random:10+class:5
    --config=configs/datamodel.py:fashion_mnist,train=5000,test=1000
    --config=configs/datamodel.py:cifar10,model=resnet18,train=10000,test=2000

Forget sets: those of configs/unlearn.py, and `component:1:10`, the ten examples with the highest
projection on the first principal component of the datamodels (`component:2:15/15`: the 15 highest
and the 15 lowest on the second), which hold one another up and are hard to forget.
"""

from ml_collections import ConfigDict

from configs import unlearn

ATTRIBUTORS = ("lasso", "ridge", "trak", "influence", "ekfac")
FORGET_SETS = (
    "random:5",
    "random:10",
    "random:30",
    "class:5",
    "component:1:10",
    "component:1:30",
    "component:1:15/15",
    "component:2:10",
    "component:2:30",
    "component:2:15/15",
)
_MATCHING = {
    **unlearn._ADAM,
    "num_epochs": 20,
    "retain_multiplier": 3.0,
    "weighting": "example",
}
_GRADIENT = ("finetune", "gradient_ascent", "gradient_ascent_plus", "scrub", "ssd")
# Fields of the constructors. `dmm_*` differ in their attributor alone.
METHODS = {
    "oracle_matching": _MATCHING,
    "dmm": {**_MATCHING, "constructor": "dmm"},
    "dmm_trak": {**_MATCHING, "constructor": "dmm"},
    "dmm_influence": {**_MATCHING, "constructor": "dmm"},
    "dmm_ekfac": {**_MATCHING, "constructor": "dmm"},
    "dm_direct": {},
    **{name: unlearn.METHODS[name] for name in _GRADIENT},
}
# Which attributor a method asks.
ASKS = {
    "dmm": "lasso",
    "dmm_trak": "trak",
    "dmm_influence": "influence",
    "dmm_ekfac": "ekfac",
    "dm_direct": "lasso",
}

_LENGTHS = {"learning_rate": (3e-4, 1e-3, 3e-3), "num_epochs": (2, 5)}
# Over a few times the forget set, which may be ten examples.
_MATCHED = {"learning_rate": (3e-4, 1e-3, 3e-3), "num_epochs": (5, 20, 60)}
# All combinations are tried; which is reported is chosen by other oracles than those it is
# compared with.
SPACES = {
    "oracle_matching": _MATCHED,
    "dmm": _MATCHED,
    "dmm_trak": _MATCHED,
    "dmm_influence": _MATCHED,
    "dmm_ekfac": _MATCHED,
    "dm_direct": {},
    "finetune": _LENGTHS,
    "gradient_ascent": {"learning_rate": (1e-3, 3e-3, 1e-2, 3e-2), "num_epochs": (2, 5)},
    "gradient_ascent_plus": {**_LENGTHS, "beta": (0.9, 0.99)},
    "scrub": _LENGTHS,
    "ssd": {"alpha": (1.0, 3.0, 10.0, 30.0, 100.0), "dampening": (0.3, 1.0)},
}


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("attributor", "method", "forget"))
    unlearn.refuse(rest, ("seeds", "weights"), "datamodel")
    rest = unlearn.with_defaults(rest, "digits", model="mlp")
    config = unlearn.learned(unlearn.get_config(rest))
    if config.model.name == "mlp":
        config.model.options.hidden = (64,)
    config.attributors = tuple(own.get("attributor", "+".join(ATTRIBUTORS)).split("+"))
    config.ensemble = ConfigDict(
        {"num_models": 4096, "num_held_out": 128, "share": 0.5, "chunk": 128}
    )
    # Models trained on all data, whose gradients TRAK and influence functions look at.
    config.num_checkpoints = 10
    # Units of `lasso_datamodels`. Those that predict random subsets best shrink the effect of a
    # coherent forget set more than need be, hence the small value.
    config.lasso = ConfigDict({"penalties": (0.25,)})
    config.trak = ConfigDict({"num_projections": 512, "damping": 0.0})
    config.influence = ConfigDict({"damping": 0.05, "num_steps": 20})
    config.ekfac = ConfigDict({"damping": 0.01})  # influence functions with that inverse

    methods = own.get("method", "+".join(name for name in METHODS if name != "dmm_influence"))
    config.methods = () if methods == "none" else tuple(unlearn.spelled_out(methods, METHODS))
    config.forget_sets = tuple(own.get("forget", "+".join(FORGET_SETS)).split("+"))
    config.num_originals = 100  # unlearned models, and as many oracles: KLoM wants 100
    config.unlearn = ConfigDict({name: dict(METHODS[name]) for name in METHODS})
    config.spaces = ConfigDict({name: dict(SPACES[name]) for name in SPACES})
    return config
