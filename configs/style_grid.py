"""Unlearning in text-conditional diffusion: a style or an object that prompts no longer bring back.

    python -m experiments.unlearn --config=configs/style_grid.py --workdir=/tmp/style_grid

Digits of 8x8 pixels, which come with scikit-learn, each in six styles, and captions of them; a text
encoder that learned what they mean with the images, a diffusion transformer that reads it. The
style neon is forgotten, then, from the same original, the object three, each by eight methods and
held against a model that never saw it: about an hour on two CPU cores, half of which trains the
original and two oracles. `quick` is one style and three methods without an oracle: a quarter of an
hour. `full` is three styles, three objects, a pair and a sequence, by every method and with three
seeds and oracles of each: a night, or an accelerator.

Two pairs of judges, of styles and of objects, look at what the models draw. Where one of them is
not sure enough of real images, or of what an original draws, the run says so and erases nothing.

Config strings as in configs/unlearn.py. `forget` is one of the below, or several, separated by '/';
each is a run of its own. What it becomes is `--config.anchor=NAME`: of a style photo, of an object
the next one. Larger images belong on accelerators.

    --config=configs/style_grid.py:quick
    --config=configs/style_grid.py:digits,forget=style:neon+sketch
    --config=configs/style_grid.py:digits,forget=pair:neon/three,method=esd+uce
    --config=configs/style_grid.py:digits,forget=sequence:neon+three+sketch+five
    --config=configs/style_grid.py:digits,forget=style:neon/style:ocean/object:three,seeds=3
    --config=configs/style_grid.py:fashion_mnist,forget=object:Bag
    --config=configs/style_grid.py:folder,forget=style:Van_Gogh --config.source=DIR

The last reads images in the published layout of UnlearnCanvas, DIR/STYLE/OBJECT/NAME.jpg; any other
data set is one of tfds with the labels 'style' and 'object'.
"""

import re

from ml_collections import ConfigDict, config_dict

from configs import unlearn
from unlearnjax import models
from unlearnjax.unlearning.diffusion import leaves

KINDS = ("style", "object", "pair", "sequence")
# Model, training, judges and answers per data set; any other set uses the last.
DATASETS = {
    "digits": {
        "forget": ("style:neon", "object:three"),
        "full": (
            "style:neon", "style:sketch", "style:crimson", "object:three", "object:five",
            "object:eight", "pair:neon/three", "sequence:neon+three+sketch+five",
        ),
        "options": {"patch_size": 2, "width": 96, "depth": 4, "num_heads": 4},
        "train": {"num_epochs": 75, "batch_size": 240, "learning_rate": 1.5e-3, "average": 0.995},
        "pair": {"patch_size": 2, "width": 64, "depth": 2, "num_heads": 4},
    },
    "fashion_mnist": {
        "forget": ("style:neon", "object:Bag"),
        "full": ("style:neon", "style:mosaic", "object:Bag", "object:Sneaker", "pair:neon/Bag"),
        "options": {"patch_size": 2, "width": 256, "depth": 8, "num_heads": 8},
        "train": {"num_epochs": 30, "batch_size": 512, "learning_rate": 5e-4, "average": 0.999},
        "pair": {"patch_size": 4, "width": 128, "depth": 4, "num_heads": 4},
        "least_object": 0.8,
    },
    "folder": {
        "forget": ("style:Van_Gogh", "object:Dogs"),
        "full": ("style:Van_Gogh", "object:Dogs"),
        "options": {"patch_size": 4, "width": 512, "depth": 12, "num_heads": 8},
        "train": {"num_epochs": 200, "batch_size": 256, "learning_rate": 2e-4, "average": 0.9999},
        "pair": {"patch_size": 8, "width": 256, "depth": 6, "num_heads": 8},
        "judge": "resnet18",
    },
}  # fmt: skip
OTHER_DATASET = DATASETS["folder"]

_ADAM = {
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "clip_norm": config_dict.placeholder(float),
    "batch_size": 64,
}
# Names of parameters, joined by '+', see `unlearning.confined`; the text encoder is moved by nobody
# but those who erase in it.
_DENOISER = {"moves": "denoiser", "stays": ""}
_CROSS_ATTENTION = {"moves": "+".join(leaves.CROSS_ATTENTION), "stays": ""}
_ESD = {
    **_ADAM,
    "constructor": "esd",
    "eta": 1.0,
    "guidance": 3.0,
    "sample_steps": 25,
    "bank": 15,
    "drawn_by": "student",
    "num_steps": 200,
    "batch_size": 60,
}
METHODS = {
    "retrain": {},
    "finetune": {**_ADAM, **_DENOISER, "batch_size": 240, "num_epochs": 5},
    # Up to what a model loses that predicts nothing, see configs/diffusion.py.
    "gradient_ascent": {**_ADAM, **_DENOISER, "num_epochs": 3, "max_loss": 0.8},
    "esd_x": {**_ESD, **_CROSS_ATTENTION, "learning_rate": 2e-5},
    "esd_u": {
        **_ESD,
        "moves": "+".join(leaves.ESD_U["where"]),
        "stays": "+".join(leaves.ESD_U["but"]),
        "learning_rate": 2e-5,
    },
    "concept_ablation": {
        **_ADAM,
        **_CROSS_ATTENTION,
        "teacher": "original",
        "num_images": 200,
        "anchor_weight": 1.0,
        "num_steps": 200,
    },
    "forget_me_not": {
        **_ADAM,
        **_CROSS_ATTENTION,
        "learning_rate": 2e-4,
        "ends": True,
        "num_steps": 35,
        "batch_size": 16,
    },
    "uce": {"erase_weight": 0.05, "preserve_weight": 0.1, "ridge": 1.0, "tokens": "onwards"},
    "selective_amnesia": {
        **_ADAM,
        **_DENOISER,
        "learning_rate": 5e-4,
        "strength": 640.0,
        "replay_weight": 1.0,
        "importance": "mean",
        "surrogate": "anchor",
        "num_images": 500,
        "num_steps": 200,
    },
    "salun_diffusion": {
        **_ADAM,
        **_DENOISER,
        "learning_rate": 5e-4,
        "keep": 0.5,
        "retain_weight": 1.0,
        "guidance": 2.0,
        "num_steps": 200,
    },
    "few_shot_erasure": {
        **_ADAM,
        "learning_rate": 2e-4,
        "part": "mlp-final-attn",
        "num_images": 4,
        "num_steps": 10,
        "batch_size": 2,
    },
}
CHOSEN = (
    "gradient_ascent", "esd_x", "concept_ablation", "forget_me_not", "uce", "selective_amnesia",
    "salun_diffusion", "few_shot_erasure",
)  # fmt: skip
# Averaged over targets of one kind.
BY_KIND = (
    "unlearning_accuracy", "unlearning_accuracy_paraphrased", "in_domain", "cross_domain",
    "cross_domain_target", "fd", "clip_pair", "stored_bytes",
)  # fmt: skip
QUICK = ("esd_x", "concept_ablation", "uce")


def get_config(arg: str = "") -> ConfigDict:
    parts = [part for part in arg.split(",") if part]
    quick, full = "quick" in parts, "full" in parts
    own, arg = unlearn.split(",".join(p for p in parts if p not in ("quick", "full")), ("forget",))
    unlearn.refuse(arg, ("model", "weights", "superclasses", "target"), "a grid of styles")
    arg = unlearn.with_defaults(arg, "digits", seeds="3" if full else "1")
    given, _ = unlearn.split(arg, ("dataset",))
    first = arg.partition(",")[0]
    name = given.get("dataset", "digits" if "=" in first else first)
    defaults = DATASETS.get(name, OTHER_DATASET)
    forget = defaults["full"] if full else defaults["forget"][: 1 if quick else None]
    if "forget" in own:
        forget = scenarios(own["forget"])
    config = unlearn.get_config(
        unlearn.with_defaults(arg, name, model="dit"),
        methods=METHODS,
        chosen=tuple(METHODS) if full else QUICK if quick else CHOSEN,
    )
    config.forget = forget[0]
    if len(forget) > 1:
        config.scenarios, config.rank, config.tuned = tuple(forget), "average_gap", ConfigDict()
        config.by_kind = BY_KIND
    config.num_oracles = config_dict.placeholder(int)
    if quick:
        config.num_oracles = 0
    config.anchor = config_dict.placeholder(str)  # what is drawn in the place of what is forgotten
    set_learning(config, defaults)
    set_audits(config, defaults)
    if full:
        config.evaluate.answers.per_cell = 10
    return config


def scenarios(text: str) -> list[str]:
    """'style:neon/pair:neon/three' to 'style:neon' and 'pair:neon/three'."""
    return re.split(rf"/(?=(?:{'|'.join(KINDS)}):)", text)


def set_learning(config: ConfigDict, defaults: dict) -> None:
    """The pair of image and text encoder, and the denoiser that reads its text half."""
    config.task = "text_diffusion"
    config.task_options = ConfigDict(
        {
            "schedule": "cosine",
            "num_steps": 1000,
            "prediction": "v",
            "condition_dropout": 0.1,
            "image_size": 64,  # of images that are read from files
        }
    )
    text_encoder = {"width": 64, "depth": 2, "num_heads": 4}
    config.model = ConfigDict({"name": "text_dit", "dtype": "float32"})
    config.model.options = ConfigDict(defaults["options"])
    config.model.text_encoder = ConfigDict(text_encoder)
    config.train.clip_norm = config_dict.placeholder(float)
    config.train.update(
        {
            "optimizer": "adam",
            "schedule": "warmup_cosine",
            "augment": False,
            **defaults["train"],
        }
    )
    config.train.checkpoint_every = max(1, config.train.num_epochs // 10)
    # Trained first, on all images; originals, oracles and retraining read the same text encoder.
    pair = {
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "schedule": "warmup_cosine",
        "num_epochs": 20,
        "batch_size": 240,
        "checkpoint_every": 10,
    }
    image_encoder = {"size": 64, "options": defaults["pair"]}
    config.base = ConfigDict({"task": "contrastive", "task_options": {}, "train": pair})
    config.base.image_encoder = ConfigDict(image_encoder)
    config.rounding.num_perturbed = 0


def set_audits(config: ConfigDict, defaults: dict) -> None:
    """What a model is asked to draw, and who judges it."""
    config.evaluate.batch_size = 140
    config.evaluate.relearn.update({"max_steps": 50, "num_examples": 64})
    config.evaluate.sampling = ConfigDict({"guidance": 2.0, "num_steps": 25, "num_draws": 4})
    config.evaluate.answers = ConfigDict({"per_cell": 4})
    train = {
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "num_epochs": 15,
        "batch_size": 64,
        "augment": False,
        "checkpoint_every": 15,
    }
    model = defaults.get("judge", "convnet")
    config.evaluate.judges = ConfigDict(
        {
            "model": {"name": model, "options": models.default_options(model)},
            "train": train,
            # Nothing is erased where they recognise less than these shares of real images, or of
            # what originals draw.
            "least_style": 0.9,
            "least_object": defaults.get("least_object", 0.85),
        }
    )
