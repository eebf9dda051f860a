"""Every method on several forget sets, and the leaderboard.

    python -m experiments.unlearn --config=configs/leaderboard.py --workdir=/tmp/leaderboard

Digits, ConvNet, a class, half a class and a random tenth, five seeds: six to ten minutes on 2 CPU
cores, resumable. Config strings as in configs/unlearn.py; `forget` names the scenarios,
separated by '/':

    --config=configs/leaderboard.py:fashion_mnist,train=3000,test=2000
    --config=configs/leaderboard.py:cifar10,model=resnet18
    --config=configs/leaderboard.py:digits,model=mlp,forget=class:3/random:0.1
"""

from ml_collections import ConfigDict

from configs import unlearn

SCENARIOS = "class:3/part:3:0.5/random:0.1"


def get_config(arg: str = "", methods: dict[str, dict] = unlearn.METHODS) -> ConfigDict:
    own, rest = unlearn.split(arg, ("forget",))
    rest = unlearn.with_defaults(rest, "digits", method="all", seeds="5")
    config = unlearn.get_config(rest, methods=methods)
    config.scenarios = tuple(own.get("forget", SCENARIOS).split("/"))
    config.rank = "average_gap"
    # What replaces `config.unlearn` in scenarios of each kind; shared fields win over both.
    found = unlearn.tuned(config.dataset, config.model.name, config.num_train)
    config.tuned = ConfigDict(found)
    return config
