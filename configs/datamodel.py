"""How well each attributor predicts what training on a subset gives: LDS.

    python -m experiments.datamodel --config=configs/datamodel.py --workdir=/tmp/datamodel

Digits, MLP, 2,176 models on random halves of the training data, resumable chunk by chunk: a few
minutes on 2 CPU cores. Config strings as in configs/unlearn.py, with `attributor=` (several with
'+') in the place of methods:

    --config=configs/datamodel.py:digits,attributor=lasso+trak --config.ensemble.num_models=4096
    --config=configs/datamodel.py:fashion_mnist,model=convnet,train=3000,test=500
"""

from ml_collections import ConfigDict

from configs import unlearn

ATTRIBUTORS = ("lasso", "ridge", "trak", "influence")


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("attributor",))
    rest = unlearn.with_defaults(rest, "digits", model="mlp")
    config = unlearn.learned(unlearn.get_config(rest))
    if config.model.name == "mlp":
        config.model.options.hidden = (64,)
    config.attributors = tuple(own.get("attributor", "+".join(ATTRIBUTORS)).split("+"))
    config.ensemble = ConfigDict(
        {"num_models": 2048, "num_held_out": 128, "share": 0.5, "chunk": 64}
    )
    # Models trained on all data, whose gradients TRAK and influence functions look at.
    config.num_checkpoints = 10
    config.trak = ConfigDict({"num_projections": 512, "damping": 0.0})
    config.influence = ConfigDict({"damping": 0.05, "num_steps": 20})
    return config
