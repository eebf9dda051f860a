"""Unlearning in language models: a decoder no longer knows an author, and the others as before.

    python -m experiments.unlearn --config=configs/language.py --workdir=/tmp/language

24 fictitious authors with 8 questions each, made up as the run begins (see
unlearnjax/data/authors.py), a decoder of 0.4 M parameters that learns to recite them, two authors
to forget, 3 originals, 4 oracles, six methods: about ten minutes on 2 CPU cores. `quick` is one
original, two oracles and two methods in about two.

Nobody can know of these authors what was not read, so oracles show what form alone gives away:
their probability of a true answer, their ROUGE-L, their truth ratio are not 0, and they are what
every column is compared with.

TOFU itself is read from `--data_dir`, a folder with its files (see unlearnjax/data/tofu.py).
`tofu_small` are 18 retained authors and the two of forget01, which all models learn after a base
that has read of a hundred others; `tofu` are all but the 20 authors that are held out, learned from
scratch, and belongs on an accelerator:

    --config=configs/language.py:quick
    --config=configs/language.py:authors,method=all,seeds=3
    --config=configs/language.py:authors,forget=identity:3+7+11
    --config=configs/language.py:authors,forget=random:0.1
    --config=configs/language.py:authors,curves=npo+grad_diff  (stopped after 5, 10, 20, .. steps)
    --config=configs/language.py:tofu_small --data_dir=tofu
    --config=configs/language.py:tofu,forget=forget10,method=npo+grad_diff --data_dir=tofu
    --config=configs/language.py:tofu,model=./Llama-3.2-1B-Instruct,seeds=1 --data_dir=tofu

The last one fine-tunes a published checkpoint, a folder with config.json, model.safetensors and
tokenizer.json, and writes unlearned models in its layout into WORKDIR/models; learning rates of
methods are those of small models (`--config.unlearn.learning_rate=1e-5`), and what stands around
questions is said by `--config.task_options.template=llama3` (see unlearnjax/data/text.py). With
`--config.task_options.lora.rank=8` low-rank changes of it are trained, and of these what forgets
(see unlearnjax/tasks/lora.py); `--config.task_options.chunk=32` has the logits of so many positions
in memory at once.
"""

from pathlib import Path

from ml_collections import ConfigDict, config_dict

from configs import unlearn
from unlearnjax import models
from unlearnjax.data import tofu

# Model, training and tokens per data set.
DATASETS = {
    "authors": {
        "forget": "identity:0+1",
        "options": {"width": 96, "depth": 3, "mlp_width": 256},
        "train": {"num_epochs": 30, "batch_size": 16, "learning_rate": 3e-3},
        "language": {"vocab_size": 1024},
    },
    "tofu_small": {
        "forget": "forget01",
        "options": {"width": 128, "depth": 4, "mlp_width": 320},
        "train": {"num_epochs": 20, "batch_size": 20, "learning_rate": 2.4e-3},
        "language": {"vocab_size": 2048, "over": "answer"},
        "base": {"num_epochs": 4, "batch_size": 20, "learning_rate": 4e-3},
    },
    "tofu": {
        "forget": "forget10",
        "options": {"width": 256, "depth": 6, "num_heads": 8, "mlp_width": 640},
        "train": {"num_epochs": 30, "batch_size": 32, "learning_rate": 2e-3},
        "language": {"vocab_size": 4096},
    },
}

# Where training starts from a published checkpoint: TOFU's own recipe.
FINE_TUNING = {"num_epochs": 5, "batch_size": 32, "learning_rate": 1e-5}

_ADAM = {"optimizer": "adamw", "learning_rate": 5e-4, "batch_size": 16}
_RETAIN = {"retain": "nll", "retain_weight": 1.0, "num_steps": 40}
METHODS = {
    "retrain": {},
    "finetune": {**_ADAM, "learning_rate": 1e-3, "num_epochs": 5},
    "gradient_ascent": {
        **_ADAM,
        "learning_rate": 1e-4,
        "num_epochs": 10,
        "max_loss": config_dict.placeholder(float),
    },
    "gradient_ascent_plus": {**_ADAM, "num_epochs": 5, "beta": 0.9},
    "l1_sparse": {**_ADAM, "learning_rate": 1e-3, "num_epochs": 5, "gamma": 1e-4},
    "scrub": {
        **_ADAM,
        "batch_size": 4,
        "num_epochs": 5,
        "max_epochs": 4,
        "alpha": 0.1,
        "gamma": 1.0,
        "temperature": 1.0,
    },
    "bad_teacher": {
        **_ADAM,
        "num_epochs": 5,
        "retain_fraction": 1.0,
        "temperature": 1.0,
        "weighting": "example",
    },
    "ssd": {"alpha": 4.0, "dampening": 1.0, "importance": "exact", "batch_size": 16},
    "grad_diff": {
        **_ADAM,
        **_RETAIN,
        "learning_rate": 1e-3,
        "retain_weight": 5.0,
        "num_steps": 10,
        "per": "token",
    },
    "npo": {**_ADAM, **_RETAIN, "beta": 0.5, "per": "sequence"},
    "simnpo": {
        **_ADAM,
        **_RETAIN,
        "learning_rate": 2e-4,
        "beta": 2.5,
        "gamma": 0.0,
        "retain_weight": 2.0,
        "num_steps": 160,
    },
    "dpo": {**_ADAM, **_RETAIN, "learning_rate": 2e-4, "beta": 0.05, "per": "sequence"},
    "idk": {**_ADAM, **_RETAIN},
    "wga": {**_ADAM, **_RETAIN, "learning_rate": 2e-4, "beta": 0.5},
    "satimp": {
        **_ADAM,
        **_RETAIN,
        "learning_rate": 1e-3,
        "beta1": 5.0,
        "beta2": 1.0,
        "num_steps": 80,
    },
    "undial": {**_ADAM, **_RETAIN, "beta": 10.0, "num_steps": 20},
    "ce_u": {**_ADAM, **_RETAIN, "learning_rate": 2e-4, "spare": 1},
    "rmu": {
        **_ADAM,
        "layer": "block_1",
        "scale": 6.5,
        "retain_weight": 1.0,
        "num_steps": 20,
    },
    "task_vector": {**_ADAM, "alpha": 4.0, "num_epochs": 5},
}
CHOSEN = ("finetune", "grad_diff", "npo", "simnpo", "idk", "ssd")
QUICK = ("grad_diff", "npo")
STEPS = (5, 10, 20, 40, 80)  # after which methods of `curves` are stopped


def get_config(arg: str = "") -> ConfigDict:
    parts = [part for part in arg.split(",") if part]
    quick = "quick" in parts
    arg = ",".join(part for part in parts if part != "quick")
    unlearn.refuse(arg, ("train", "test", "superclasses", "target"), "language")
    curves, arg = unlearn.split(arg, ("curves",))
    own, _ = unlearn.split(arg, ("dataset", "model"))
    if Path(own.get("model", "")).is_dir() and own.get("model"):  # a checkpoint
        arg = arg.replace(f"model={own['model']}", f"weights={own['model']}")
    first = arg.partition(",")[0]
    name = own.get("dataset", first if first and "=" not in first else "authors")
    if name not in DATASETS:
        raise ValueError(f"language's data set must be one of {tuple(DATASETS)}, got {name!r}")
    defaults = DATASETS[name]
    arg = unlearn.with_defaults(
        arg,
        name,
        model="decoder",
        forget=defaults["forget"],
        seeds="1" if quick else "3",
    )
    stopped, methods = set_stops(curves.get("curves", ""))
    chosen = QUICK if quick else CHOSEN
    config = unlearn.get_config(arg, dataset=name, methods=METHODS | methods, chosen=chosen)
    config.methods = tuple(dict.fromkeys((*config.methods, *methods)))
    config.curves = ConfigDict(stopped)
    config.forget = spelled_out(config.forget)
    config.task = "language"
    config.num_oracles = config.num_seeds + 1  # so that their own spread is known better
    # Of the authors held out; the others are what membership attacks compare with.
    config.validation_fraction = 0.5
    config.task_options = ConfigDict(
        {
            "num_authors": 24,
            "num_questions": 8,
            "num_held_out": 12,
            "vocab_size": 1024,
            "template": "trained",
            "length": config_dict.placeholder(int),  # None: as long as the longest answer needs
            "num_refusals": 8,  # of a question, of which methods draw one in every step
            "over": "all",  # tokens that are learned from scratch; 'answer' unlearns
            "max_new_tokens": config_dict.placeholder(int),  # None: the longest answer
            "temperature": 0.0,
            "chunk": config_dict.placeholder(int),  # positions whose logits are held at once
            # None: all parameters are trained; else changes of that rank, of published weights.
            "lora": {
                "rank": config_dict.placeholder(int),
                "alpha": config_dict.placeholder(float),
                "where": ("block_*",),
            },
        }
    )
    config.task_options.update(defaults["language"])
    if config.weights is not None:
        defaults = {**defaults, "train": FINE_TUNING}
        defaults.pop("base", None)
        config.task_options.update({"over": "answer", "template": "plain"})
    if config.model.name == "decoder":
        config.model.options.update(models.default_options("decoder") | defaults["options"])
    train = {"optimizer": "adamw", "schedule": "warmup_cosine", "augment": False}
    config.train.update({**train, **defaults["train"]})
    config.train.checkpoint_every = max(
        1, config.train.num_epochs // (1 if name == "authors" else 5)
    )
    if "base" in defaults:  # what all models start from: it has read of other authors
        own = {**config.train.to_dict(), **defaults["base"], "checkpoint_every": 1}
        config.base = ConfigDict({"train": own, "task_options": {"over": "all"}})
    config.rounding.num_perturbed = 0
    config.evaluate.update({"batch_size": 64, "num_retain": 200, "num_examples": 8})
    config.evaluate.min_k = 0.4  # of Min-K%, and of PrivLeak by it, as MUSE has it
    config.evaluate.least_known = 0.5  # nothing is forgotten that the originals know less well
    config.evaluate.relearn.update({"max_steps": 50, "num_examples": 64})
    return config


def spelled_out(forget: str) -> str:
    """A forget set of TOFU by its name is the field of that name."""
    return f"field:{forget}:true" if forget in tofu.FORGET else forget


def set_stops(text: str) -> tuple[dict[str, tuple[str, ...]], dict[str, dict]]:
    """For each method of 'npo+rmu' the names of its stopped variants; and these, as methods."""
    stopped, methods = {}, {}
    for method in (own for own in text.split("+") if own):
        if "num_steps" not in METHODS.get(method, {}):
            can = tuple(name for name, fields in METHODS.items() if "num_steps" in fields)
            raise ValueError(f"curves must be of methods with num_steps, {can}, got {method!r}")
        own = {f"{method}_{steps}_steps": steps for steps in STEPS}
        stopped[method] = tuple(own)
        methods |= {
            name: {**METHODS[method], "constructor": method, "num_steps": steps}
            for name, steps in own.items()
        }
    return stopped, methods
