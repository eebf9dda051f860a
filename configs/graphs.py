"""Unlearning in graphs: nodes, edges or features are deleted, from what is served as well.

    python -m experiments.unlearn --config=configs/graphs.py --workdir=/tmp/graphs

The 1,797 digits as a graph of their ten nearest neighbours, a GCN of two layers, a tenth of the
nodes, three seeds, nine methods.

Config strings as in configs/unlearn.py, and `links` for the prediction of edges in the place of
nodes' classes. `forget` is one of `data.graph_requests.SPECS`. Cora, Citeseer and PubMed are read
from Planetoid's files, CitationFull and Coauthor from an .npz:

    --config=configs/graphs.py:cora --data_dir=planetoid/
    --config=configs/graphs.py:citeseer,forget=edges:0.05 --data_dir=planetoid/
    --config=configs/graphs.py:cora,forget=edges:adversarial:0.5,model=gat --data_dir=planetoid/
    --config=configs/graphs.py:cora,links,forget=edges:in:0.025 --data_dir=planetoid/
    --config=configs/graphs.py:npz --config.source=cora_full.npz
"""

from ml_collections import ConfigDict, config_dict

from configs import unlearn

# Training by data set; any other uses the last, which is Kipf and Welling's.
DATASETS = {
    "digits": {
        "options": {"hidden": (32,)},
        "train": {"num_epochs": 50, "learning_rate": 0.02, "batch_size": 432},
    },
    "cora": {
        "options": {},
        "train": {
            "num_epochs": 200,
            "learning_rate": 0.01,
            "batch_size": 140,
            "recipe": "experiments.common.graphs:first_layer_decay",
        },
    },
}
LINKS = {"num_epochs": 150, "learning_rate": 0.01, "batch_size": 2048, "recipe": None}

_ADAM = {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 512}
METHODS = {
    "retrain": {},
    "edit_only": {},
    "finetune": {**_ADAM, "num_epochs": 5},
    "gradient_ascent": {
        **_ADAM,
        "learning_rate": 2e-4,
        "num_epochs": 2,
        "max_loss": config_dict.placeholder(float),
    },
    "random_label": {
        **_ADAM,
        "learning_rate": 2e-4,
        "num_epochs": 50,
        "over": "union",
        "weighting": "example",
        "retain_weight": 1.0,
    },
    "scrub": {**_ADAM, "num_epochs": 10, "max_epochs": 2, "alpha": 0.1, "gamma": 0.9},
    "bad_teacher": {
        **_ADAM,
        "learning_rate": 2e-3,
        "num_epochs": 20,
        "retain_fraction": 1.0,
        "temperature": 1.0,
        "weighting": "example",
    },
    # The exact diagonal takes a pass over the graph for every example.
    "ssd": {"alpha": 20.0, "dampening": 0.1, "importance": "batch", "batch_size": 32},
    "influence": {"alpha": 1.0, "method": "cg", "damping": 1.0, "num_steps": 20},
    "graph_influence": {
        "hops": config_dict.placeholder(int),
        "hessian": "edited",
        "alpha": 1.0,
        "noise": 0.0,
        "method": "cg",
        "damping": 0.02,
        "num_steps": 20,
    },
    "gnn_delete": {"optimizer": "adam", "learning_rate": 0.05, "alpha": 0.1, "num_steps": 100},
    "gnn_delete_published": {
        "constructor": "gnn_delete",
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "alpha": 0.5,
        "num_steps": 3000,
    },
    "d2dgn": {**_ADAM, "num_epochs": 100, "alpha": 0.99, "form": "response"},
    # As the training, of links at a tenth of its rate.
    "d2dgn_published": {
        **_ADAM,
        "constructor": "d2dgn",
        "num_epochs": 200,
        "alpha": 0.5,
        "form": "response",
    },
    "graph_eraser": {
        **_ADAM,
        "learning_rate": 0.02,
        "num_epochs": 50,
        "num_shards": 5,
        "slack": 0.1,
        "num_rounds": 20,
    },
}
# What suits links, of which there are many more than of nodes that are trained on.
LINK_METHODS = {
    "finetune": {"learning_rate": 0.02, "num_epochs": 50},
    "gradient_ascent": {"learning_rate": 1e-3, "num_epochs": 10},  # as published
    "random_label": {"learning_rate": 5e-4},
    "scrub": {"max_epochs": 5},
    "bad_teacher": {"learning_rate": 0.01, "num_epochs": 5},
    "ssd": {"alpha": 2.0},
    "d2dgn": {"num_epochs": 150, "batch_size": 2048},
    "d2dgn_published": {"learning_rate": 1e-3, "num_epochs": 150, "batch_size": 2048},
}
OF_NODES = ("graph_eraser",)
CHOSEN = (
    "retrain", "edit_only", "finetune", "gradient_ascent", "ssd", "graph_influence", "gnn_delete",
    "d2dgn", "graph_eraser",
)  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    parts = [part for part in arg.split(",") if part]
    links = "links" in parts
    parts = [part for part in parts if part != "links"]
    rest = unlearn.with_defaults(
        ",".join(parts), "digits", model="gcn", forget="edges:0.05" if links else "nodes:0.1"
    )
    unlearn.refuse(rest, ("train", "test", "superclasses", "target", "weights"), "graphs")
    chosen = [name for name in CHOSEN if not (links and name in OF_NODES)]
    methods = METHODS
    if links:
        methods = {
            name: own | LINK_METHODS.get(name, {})
            for name, own in METHODS.items()
            if name not in OF_NODES
        }
    config = unlearn.get_config(rest, methods=methods, chosen=chosen)
    defaults = DATASETS.get(config.dataset, DATASETS["cora"])
    config.task = "link_prediction" if links else "node_classification"
    config.task_options = ConfigDict({"num_neighbours": 10})  # of the digits' graph
    if config.model.name == "gcn":
        config.model.options.update(defaults["options"])
    if links:
        config.model.options.update({"hidden": (64,), "dropout": 0.0, "out": 32})
    train = {**defaults["train"], **(LINKS if links else {})}
    config.train.update(
        {"optimizer": "adam", "schedule": "constant", "augment": False}
        | {name: value for name, value in train.items() if value is not None}
    )
    config.train.checkpoint_every = max(1, config.train.num_epochs // 5)
    # One pass over the graph answers for all examples at once.
    config.evaluate.batch_size = 4096
    config.evaluate.relearn.update({"learning_rate": 1e-3, "max_steps": 50})
    del config.evaluate["probe"]
    config.rounding.num_perturbed = 0
    return config
