"""Unlearning in class-conditional diffusion: a class is no longer drawn, the others are as before.

    python -m experiments.unlearn --config=configs/diffusion.py --workdir=/tmp/diffusion

Digits of 8x8 pixels (they come with scikit-learn), a small diffusion transformer, class 3, one
seed. Most of the time is the training of the original and the oracle; another run, such as one with
other methods, takes the original from this one by `--originals=/tmp/diffusion`.

Two judges, classifiers of real images, look at what the models draw. Where they are not sure enough
of real images, or of the original's, the run says so and erases nothing.

Config strings as in configs/unlearn.py; `quick` is a smaller model and fewer methods:

    --config=configs/diffusion.py:quick
    --config=configs/diffusion.py:digits,method=all,seeds=3
    --config=configs/diffusion.py:digits,forget=random:0.1
    --config=configs/diffusion.py:fashion_mnist,train=20000
    --config=configs/diffusion.py:cifar10      (accelerators: the U-Net of the papers, see there)
"""

from ml_collections import ConfigDict

from configs import unlearn

_ADAM = {"optimizer": "adam", "learning_rate": 1e-4, "batch_size": 128}
METHODS = {
    "retrain": {},
    "finetune": {**_ADAM, "num_epochs": 10},
    "gradient_ascent": {**_ADAM, "num_epochs": 20, "max_loss": 1.0},
    "scrub": {**_ADAM, "num_epochs": 6, "max_epochs": 4, "alpha": 1.0, "gamma": 1.0},
    "ssd": {"alpha": 4.0, "dampening": 1.0, "importance": "exact", "batch_size": 64},
}
CHOSEN = ("retrain", "finetune", "gradient_ascent", "scrub", "ssd")
QUICK = ("finetune", "gradient_ascent", "ssd")


def get_config(arg: str = "") -> ConfigDict:
    parts = [part for part in arg.split(",") if part]
    quick = "quick" in parts
    arg = ",".join(part for part in parts if part != "quick")
    arg = unlearn.with_defaults(arg, "digits", model="dit", seeds="1")
    config = unlearn.get_config(
        arg, dataset="digits", methods=METHODS, chosen=QUICK if quick else CHOSEN
    )
    config.task = "diffusion"
    # How images become noise and what the network says of it: what originals are trained for.
    config.task_options = ConfigDict(
        {"schedule": "cosine", "num_steps": 1000, "prediction": "v", "condition_dropout": 0.1}
    )
    config.train.update(TRAIN)
    set_audits(config)
    return config


TRAIN = {
    "optimizer": "adam",
    "learning_rate": 1.5e-3,
    "schedule": "warmup_cosine",
    "num_epochs": 200,
    "batch_size": 128,
    "average": 0.995,  # of the exponential average of parameters, which becomes the model
    "checkpoint_every": 40,
}


def set_audits(config: ConfigDict) -> None:
    """What a model is asked to draw, and who judges it."""
    config.evaluate.batch_size = 100
    config.evaluate.sampling = ConfigDict({"guidance": 2.0, "num_steps": 25, "num_draws": 16})
    config.evaluate.answers = ConfigDict({"per_class": 50, "num_neighbours": 3})
    config.evaluate.judges = ConfigDict(
        {
            "model": {"name": "convnet", "options": {"channels": (32, 64), "hidden": 64}},
            "train": {
                "optimizer": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "num_epochs": 30,
                "batch_size": 64,
                "augment": False,
                "checkpoint_every": 30,
            },
            "least_real": 0.9,  # below these shares that they recognise nothing is erased
            "least_samples": 0.8,
        }
    )
    config.evaluate.relearn.update({"max_steps": 50, "margin": 0.05, "num_examples": 64})
