"""Hyper-parameters of methods on graphs, as configs/sweep.py finds those of classifiers.

    python -m experiments.sweep --config=configs/graph_sweep.py --workdir=/tmp/graph_sweep

The digits as a graph, a tenth of the nodes and a twentieth of the edges, one original, one oracle
and up to ten trials a method. Resumable trial by trial; the values that it finds belong into
configs/graphs.py.

Config strings as in configs/graphs.py; `forget` names the scenarios, separated by '/', `method`
some of those that have values to be found:

    --config=configs/graph_sweep.py:cora,method=gnn_delete+d2dgn --data_dir=planetoid/
"""

from ml_collections import ConfigDict

from configs import graphs, sweep, unlearn

_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
_SLOW = (1e-4, 2e-4, 5e-4, 1e-3)
_EPOCHS = (5, 10, 20, 50)
SPACES = {
    "finetune": {"learning_rate": _RATES, "num_epochs": _EPOCHS},
    "gradient_ascent": {"learning_rate": _SLOW, "num_epochs": (2, 5, 10)},
    "random_label": {"learning_rate": _SLOW, "num_epochs": _EPOCHS},
    "scrub": {"learning_rate": (*_SLOW, 5e-3, 1e-2), "max_epochs": (1, 2, 5)},
    "bad_teacher": {"learning_rate": _RATES, "num_epochs": _EPOCHS},
    "ssd": {"alpha": (1.5, 2.0, 4.0, 10.0, 20.0), "dampening": (0.1, 0.3, 1.0)},
    "influence": {"damping": (0.01, 0.02, 0.1, 0.5, 1.0)},
    "graph_influence": {"damping": (0.01, 0.02, 0.1, 0.5, 1.0), "alpha": (0.3, 1.0)},
    "gnn_delete": {
        "learning_rate": (1e-3, 1e-2, 5e-2),
        "num_steps": (100, 500, 3000),
        "alpha": (0.1, 0.5, 0.9),
    },
    "d2dgn": {"learning_rate": _RATES, "num_epochs": (20, 50, 100, 200), "alpha": (0.5, 0.9, 0.99)},
    "graph_eraser": {"learning_rate": _RATES, "num_shards": (2, 5, 10)},
}


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("forget", "method"))
    methods = "+".join(unlearn.spelled_out(own.get("method", "all"), SPACES))
    config = graphs.get_config(unlearn.with_defaults(rest, "digits", method=methods, seeds="1"))
    config.methods = tuple(method for method in config.methods if method in SPACES)
    config.scenarios = tuple(own.get("forget", "nodes:0.1/edges:0.05").split("/"))
    return sweep.searching(config, SPACES)
