"""Forget, audit and report: one data set, one forget set, many unlearners.

    python -m experiments.unlearn --config=configs/unlearn.py --workdir=/tmp/unlearn

Digits, ConvNet, class 3, three seeds, ten methods of different kinds: 90 seconds on 2 CPU
cores, and with `digits,method=all` every method in five; SSD reaches forget accuracy 0 %, as the
oracle, with retain accuracy 99.9 % (oracle 100 %).

Variants by config string, comma-separated: a data set, then `key=value` with the keys model, method
(several with '+', or all), forget (see unlearnjax/data/forget_sets.py and corruption.py), seeds,
train and test (use so many examples of each), superclasses (classes lumped together, for sub-class
forgetting), target (a field of the data set to be learned in the place of its label) and weights
(published ones that training starts from, see docs/api/pretrained.md):

    --config=configs/unlearn.py:fashion_mnist,method=ssd,forget=class:3,train=5000
    --config=configs/unlearn.py:digits,model=mlp,forget=random:0.1,seeds=5
    --config=configs/unlearn.py:digits,superclasses=0+2+4+6+8/1+3+5+7+9,forget=field:subclass:3
    --config=configs/unlearn.py:cifar100,target=coarse_label,forget=field:subclass:8
    --config=configs/unlearn.py:cifar10,model=resnet18
    --config=configs/unlearn.py:cifar10,model=vit_base,weights=vit-base-patch16-224/
    --config=configs/unlearn.py:digits,model=my_module:MyClass  (Linen or NNX, imported)
    --config=configs/unlearn.py:digits,method=ssd+my_module:my_unlearner  (imported)

Single fields by flags: `--config.train.num_epochs=5`, `--config.unlearn.ssd.alpha=3`, or for every
method that has the field `--config.unlearn.alpha=3`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from unlearnjax import checks, importing, models

# Training and model per data set; any other set uses the last.
DATASETS = {
    "digits": {"model": "convnet", "num_epochs": 20, "batch_size": 64, "learning_rate": 2e-3},
    "fashion_mnist": {
        "model": "convnet",
        "num_epochs": 5,
        "batch_size": 128,
        "learning_rate": 1e-3,
    },
    "diabetes": {"model": "mlp", "num_epochs": 40, "batch_size": 32, "learning_rate": 3e-3},
    "spoken_digits": {
        "model": "convnet",
        "num_epochs": 12,
        "batch_size": 64,
        "learning_rate": 1e-3,
    },
    **dict.fromkeys(
        ("vader_polarity", "vader_source"),
        {"model": "text_classifier", "num_epochs": 4, "batch_size": 64, "learning_rate": 2e-3},
    ),
    "cifar10": {
        "model": "resnet18",
        "num_epochs": 30,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "augment": True,
    },
}
OTHER_DATASET = DATASETS["cifar10"]
# Of one's own, by the import path of what loads it.
OWN_DATASET = {"model": "mlp", "num_epochs": 20, "batch_size": 32, "learning_rate": 2e-3}
# Where training starts from published weights.
FINE_TUNING = {"num_epochs": 5, "learning_rate": 1e-4}

_ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 64}

# Hyper-parameters per method: fields of its constructor in `unlearnjax.unlearning`, of which
# `optimizer` and `learning_rate` make its `tx`. `constructor` names it where the method is a
# variant. `retrain` repeats the training of the original. Values that configs/sweep.py found for a
# data set, model and kind of forget set, in configs/tuned/, replace these.
METHODS = {
    "retrain": {},
    "finetune": {**_ADAM, "learning_rate": 3e-3, "num_epochs": 2},
    "finetune_last": {**_ADAM, "learning_rate": 3e-3, "num_epochs": 2, "layers": 2},
    "retrain_last": {**_ADAM, "learning_rate": 3e-3, "num_epochs": 3, "layers": 2},
    "gradient_ascent": {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "num_epochs": 10,
        "batch_size": 64,
        "max_loss": config_dict.placeholder(float),
    },
    "gradient_ascent_plus": {**_ADAM, "num_epochs": 2, "beta": 0.9},
    "random_label": {
        **_ADAM,
        "learning_rate": 5e-4,
        "num_epochs": 3,
        "over": "union",
        "weighting": "example",
        "retain_weight": 1.0,
    },
    "salun": {
        **_ADAM,
        "learning_rate": 5e-4,
        "num_epochs": 3,
        "over": "union",
        "weighting": "example",
        "retain_weight": 1.0,
        "keep": 0.5,
    },
    "scrub": {**_ADAM, "num_epochs": 4, "max_epochs": 2, "alpha": 0.001, "gamma": 0.99},
    "scrub_rewind": {
        **_ADAM,
        "constructor": "scrub",
        "rewind": True,
        "num_epochs": 4,
        "max_epochs": 4,
        "alpha": 0.001,
        "gamma": 0.99,
    },
    "bad_teacher": {
        **_ADAM,
        "num_epochs": 3,
        "retain_fraction": 0.3,
        "temperature": 1.0,
        "weighting": "example",
    },
    "unsir": {
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "batch_size": 64,
        "num_noise": 32,
        "repeats": 20,
        "noise_steps": 40,
        "noise_decay": 0.1,
        "retain_fraction": 1.0,
    },
    "boundary_shrink": {**_ADAM, "learning_rate": 2e-4, "num_epochs": 10, "radius": 0.1},
    "boundary_expand": {**_ADAM, "learning_rate": 2e-4, "num_epochs": 10},
    "fisher_forgetting": {"alpha": 1e-6, "batch_size": 32},
    "influence": {"alpha": 2.0, "method": "cg", "damping": 0.02, "num_steps": 10},
    "l1_sparse": {**_ADAM, "learning_rate": 3e-3, "num_epochs": 3, "gamma": 1e-4},
    "prune_finetune": {**_ADAM, "learning_rate": 3e-3, "num_epochs": 3, "sparsity": 0.8},
    "iterative_prune_finetune": {
        **_ADAM,
        "learning_rate": 3e-3,
        "num_epochs": 3,
        "sparsity": 0.8,
        "per_round": 0.4,
        "prune_epochs": 5,
        "rewind_epochs": 2,
    },
    "laf": {
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "batch_size": 32,
        "num_epochs": 20,
        "align_rate": 2.0,
        "temperature": 20.0,
        "layer": config_dict.placeholder(str),
    },
    "just_in_time": {
        "optimizer": "sgd",
        "learning_rate": 3e-4,
        "batch_size": 128,
        "num_epochs": 1,
        "sigma": 0.5,
        "num_copies": 25,
    },
    "sisa": {**_ADAM, "learning_rate": 2e-3, "num_epochs": 7, "num_shards": 3, "num_slices": 3},
    "s3t": {
        **_ADAM,
        "learning_rate": 3e-3,
        "num_epochs": 7,
        "num_shards": 1,
        "num_slices": 3,
        "budget": 3,
        "rank": 32,
    },
    "acu": {"num_features": 1024, "gamma": 10.0, "form": "gram", "backbone": "inputs"},
    "ssd": {"alpha": 4.0, "dampening": 1.0, "importance": "exact", "batch_size": 128},
    "loss_free_ssd": {"alpha": 3.0, "dampening": 1.0, "batch_size": 16},
    "adaptive_ssd": {"dampening": 1.0, "batch_size": 128},
}
# What runs where no method is named: of every kind the one that stands for it.
CHOSEN = (
    "finetune", "gradient_ascent", "gradient_ascent_plus", "random_label", "salun", "scrub",
    "bad_teacher", "l1_sparse", "acu", "ssd",
)  # fmt: skip
TUNED = Path(__file__).parent / "tuned"
# What a model that has learned everything depends on.
LEARNED = (
    "seed", "task", "dataset", "source", "target", "superclasses", "num_train", "model", "weights",
    "train",
)  # fmt: skip
KEYS = (
    "dataset", "model", "weights", "method", "forget", "seeds", "train", "test", "superclasses",
    "target",
)  # fmt: skip


def get_config(
    arg: str = "",
    *,
    dataset: str = "digits",
    methods: dict[str, dict] = METHODS,
    chosen: Sequence[str] = CHOSEN,
) -> ConfigDict:
    """The config of a string; other families of configs start from it with defaults of theirs.

    Without a method in the string it is those `chosen`.
    """
    options = _parse(arg, dataset)
    dataset = options["dataset"]
    defaults = DATASETS.get(dataset, OWN_DATASET if importing.is_path(dataset) else OTHER_DATASET)
    model = options.get("model", defaults["model"])
    if "weights" in options:
        defaults = defaults | FINE_TUNING

    config = ConfigDict()
    config.seed = 0
    config.num_seeds = _count(options, "seeds") or 3
    config.task = "classification"
    config.dataset = dataset
    config.source = config_dict.placeholder(str)  # files of data sets that are read from files
    config.target = _optional(str, options.get("target"))
    config.superclasses = _groups(options.get("superclasses", ""))
    config.num_train = _optional(int, _count(options, "train"))  # None: all
    config.num_test = _optional(int, _count(options, "test"))
    config.validation_fraction = 0.1
    config.held_out = "test"
    config.forget = options.get("forget", "class:3")
    config.model = ConfigDict(
        {"name": model, "dtype": "float32", "options": models.default_options(model)}
    )
    config.weights = _optional(str, options.get("weights"))  # published ones to start from
    config.train = ConfigDict(
        {
            "optimizer": "adamw",
            "learning_rate": defaults["learning_rate"],
            "schedule": "cosine",
            "num_epochs": defaults["num_epochs"],
            "batch_size": defaults["batch_size"],
            "augment": defaults.get("augment", False),
            "checkpoint_every": max(1, defaults["num_epochs"] // 5),
            "shard_parameters": False,  # split the model over devices, not only the batch
            "recipe": config_dict.placeholder(str),  # 'module:function', see `build.recipe`
        }
    )
    config.evaluate = ConfigDict({"batch_size": 500})
    # The relearn audit: steps of the training optimizer until the forget set is known again.
    config.evaluate.relearn = ConfigDict(
        {"learning_rate": 3e-4, "max_steps": 100, "margin": 0.05, "num_examples": 256}
    )
    # The layer whose activations a linear probe searches for forgotten classes; None: 'features'.
    config.evaluate.probe = ConfigDict({"layer": config_dict.placeholder(str)})
    # Methods also run from originals perturbed by `size` of their size, as others would round;
    # those that spread by more than five points get `num_seeds` seeds (0: no more than others).
    config.rounding = ConfigDict({"num_perturbed": 1, "size": 1e-6, "num_seeds": 0})
    config.columns = ()  # further columns of the printed table, e.g. ("unseen_accuracy",)
    paths = spelled_out(options.get("method", "+".join(chosen)), methods)
    methods = methods | {name_of(p): own_method(p) for p in paths if importing.is_path(p)}
    config.methods = tuple(name_of(path) for path in paths)
    unknown = [method for method in config.methods if method not in methods]
    if unknown:
        raise ValueError(
            f"method must be all or some of {sorted(methods)}, got {', '.join(map(repr, unknown))}"
            + checks.near(unknown, methods)
        )

    # A placeholder would be shared, and set in every config at once.
    own = lambda value: config_dict.placeholder(value.get_type()) if _is_unset(value) else value
    config.unlearn = ConfigDict({m: {k: own(v) for k, v in f.items()} for m, f in methods.items()})
    set_tuned(config, tuned(dataset, model, config.num_train))
    # Fields of the methods, unset here: `--config.unlearn.FIELD` sets it for every method with it.
    for fields in methods.values():
        for field, value in fields.items():
            if field != "constructor":
                kind = type(value) if isinstance(value, int | str) else float
                kind = value.get_type() if _is_unset(value) else kind
                config.unlearn[field] = config_dict.placeholder(kind)
    return config


def _optional(kind: type, value: Any) -> config_dict.FieldReference:
    """A field of that type that may be unset, `None`."""
    return config_dict.FieldReference(value, field_type=kind)


def _is_unset(value: Any) -> bool:
    return isinstance(value, config_dict.FieldReference)


def spelled_out(text: str, methods: Iterable[str]) -> list[str]:
    """The methods of an option: separated by '+', and 'all' is all of `methods`."""
    named = [name for part in text.split("+") for name in (methods if part == "all" else [part])]
    return list(dict.fromkeys(named))


def name_of(method: str) -> str:
    """'gentle' of 'my_module:gentle', an unlearner of one's own."""
    return method.rpartition(":")[2]


def own_method(path: str) -> dict[str, Any]:
    """The fields of a constructor outside of the library: its arguments with their defaults."""
    parameters = importing.parameters(importing.imported(path))
    fields = importing.defaults(parameters, ("tx",), f"method {path!r}")
    rate = {"optimizer": "adam", "learning_rate": 1e-3} if "tx" in parameters else {}
    return {"constructor": path, **rate, **fields}


def with_defaults(arg: str, dataset: str, **defaults: str) -> str:
    """A config string with what it leaves open: the data set, and `key=value` for each default."""
    parts = [part for part in arg.split(",") if part] or [dataset]
    given = {part.partition("=")[0] for part in parts}
    return ",".join(parts + [f"{k}={v}" for k, v in defaults.items() if k not in given])


def split(arg: str, keys: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """The options of a config string that another family has itself, and the rest of the string."""
    own, rest = {}, []
    for part in (part for part in arg.split(",") if part):
        key, _, value = part.partition("=")
        if key in keys:
            own[key] = value
        else:
            rest.append(part)
    return own, ",".join(rest)


def refuse(arg: str, keys: tuple[str, ...], family: str) -> None:
    """Raises `ValueError` for an option of a config string that the family has no use for."""
    given, _ = split(arg, keys)
    if given:
        raise ValueError(f"config option {next(iter(given))!r} has no meaning for {family}")


def learned(base: ConfigDict) -> ConfigDict:
    """What of a config says what is learned, and how, afresh: nothing forgotten, no weights."""
    config = ConfigDict()
    for field in (*(field for field in LEARNED if field != "weights"), "num_test"):
        if base[field] is None:  # what may be set keeps its type
            config[field] = config_dict.placeholder(base.get_type(field))
        else:
            config[field] = base[field]
    return config


def tuned(dataset: str, model: str, num_train: int | None = None) -> dict[str, dict[str, dict]]:
    """{kind of forget set: {method: fields}} that a sweep found best, see configs/sweep.py.

    Values found with a part of the data set are not those for all of it.
    """
    size = "" if num_train is None else f"_{num_train}"
    path = TUNED / f"{dataset}_{model}{size}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def set_tuned(config: ConfigDict, found) -> None:
    """Replaces the methods' fields by those of `tuned` for the config's kind of forget set."""
    for method, fields in found.get(kind_of(config.forget), {}).items():
        if method in config.unlearn:
            config.unlearn[method].update(fields)


def kind_of(forget: str) -> str:
    """'class', 'part', 'random', ...: forget sets of one kind share hyper-parameters."""
    kind = forget.partition(":")[0]
    return {"indices": "random", "field": "class"}.get(kind, kind)


def _groups(text: str) -> tuple[tuple[int, ...], ...]:
    """'0+2/1+3' to ((0, 2), (1, 3))."""
    try:
        return tuple(tuple(int(c) for c in g.split("+")) for g in text.split("/") if g)
    except ValueError as error:
        raise ValueError(f"superclasses must be like 0+2+4/1+3+5, got {text!r}") from error


def _count(options: dict[str, str], key: str) -> int | None:
    value = options.get(key)
    if value is not None and not (value.isdigit() and int(value) >= 1):
        raise ValueError(f"{key} must be a positive integer, got {value!r}")
    return None if value is None else int(value)


def _parse(arg: str, dataset: str) -> dict[str, str]:
    """'digits,model=mlp' to {'dataset': 'digits', 'model': 'mlp'}."""
    options = {"dataset": dataset}
    for position, part in enumerate(p for p in arg.split(",") if p):
        key, equals, value = part.partition("=")
        if not equals:  # a data set, and after it a model, may stand without their keys
            if position == 0:
                key, value = "dataset", part
            elif part in models.BY_NAME:
                key, value = "model", part
        if key not in KEYS:
            raise ValueError(
                f"config option must be one of {KEYS}, got {key!r}{checks.near([key], KEYS)}"
            )
        options[key] = value
    return options
