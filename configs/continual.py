"""A stream of requests to learn and to forget, for closed-form heads and what gradients offer.

    python -m experiments.continual --config=configs/continual.py --workdir=/tmp/continual

Digits, 512 random features of the pixels, three streams (class-incremental, interleaved, 60 single
deletions one after another): about 90 seconds on 2 CPU cores. The closed-form heads end at the
solution over what is left, to 1e-9 and with identical predictions, without keeping a row.

Config strings: a data set, then `stream=` and `method=` (several with '+'), `train=` and `test=`:

    --config=configs/continual.py:fashion_mnist,train=5000,test=2000 --config.backbone=trained

`backbone` is 'inputs' (pixels) or 'trained': the features of a ConvNet that our own training fits
to the classes of the base phase, and which is frozen afterwards.
"""

from ml_collections import ConfigDict

from configs import unlearn

STREAMS = ("class_incremental", "interleaved", "adversarial")
METHODS = (
    "acu_gram",
    "acu_inverse",
    "resolve",
    "retrain",
    "finetune",
    "ascent",
    "ssd",
    "ewc",
)


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("stream", "method"))
    unlearn.refuse(rest, ("forget", "seeds", "weights"), "continual")
    config = unlearn.learned(unlearn.get_config(rest))
    config.streams = tuple(own.get("stream", "+".join(STREAMS)).split("+"))
    config.methods = tuple(unlearn.spelled_out(own.get("method", "all"), METHODS))
    config.backbone = "inputs"
    config.num_features = 512
    config.gamma = 1.0
    # The softmax heads, and the strengths of what they forget with.
    config.head = ConfigDict(
        {
            "learning_rate": 3e-3,
            "num_epochs": 5,
            "retrain_epochs": 20,
            "batch_size": 64,
            "ascent_rate": 0.01,
            "ewc": 1.0,
            "ssd_alpha": 0.1,
            "ssd_dampening": 1.0,
        }
    )
    return config
