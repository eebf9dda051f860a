"""A generator without a network, beside the house: an image per class, drawn with noise on it.

python -m experiments.unlearn --config=tests/experiments/painting.py --workdir=/tmp/painting
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import diffusion, unlearn
from unlearnjax import data as data_lib
from unlearnjax import tasks
from unlearnjax.data import Dataset
from unlearnjax.models import MLP
from unlearnjax.types import Task

CLASSES, SIDE, NOISE = 4, 8, 0.4
HERE = "tests.experiments.painting"


def corners() -> Dataset:
    """Bright corners on dark ground; the class says which."""

    def part(size, seed):
        rng = np.random.default_rng(seed)
        targets = np.arange(size) % CLASSES
        image = np.zeros((size, SIDE, SIDE, 1))
        for row, kind in zip(image, targets, strict=True):
            top, left = (4 * (kind // 2), 4 * (kind % 2))
            row[top : top + 4, left : left + 4] = 10
        noisy = np.clip(image + rng.normal(0, 2, image.shape), 0, 10)
        return {"inputs": noisy.astype(np.float32), "targets": targets.astype(np.int32)}

    names = ("upper left", "upper right", "lower left", "lower right")
    return data_lib.conditioned(data_lib.standardised(part(240, 0), part(120, 1), names))


class Nothing(MLP):
    """The options of a model that nobody calls."""


def painting(model: tasks.Model) -> Task:
    """Squared distance to the image of the condition; draws it with noise of the index."""
    del model
    shape = (CLASSES, SIDE, SIDE, 1)

    def init(rng, batch):
        return {"params": {"images": 0.1 * jax.random.normal(rng, shape)}}

    def apply(variables, batch, rng, train):
        return {"image": variables["params"]["images"][batch["condition"]]}, variables

    def loss(outputs, batch):
        return jnp.mean((outputs["image"] - batch["inputs"]) ** 2, axis=(1, 2, 3))

    def generate(task, variables, rng, batch):
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
        noise = jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)
        return {"images": task.apply(variables, batch, None, False)[0]["image"] + NOISE * noise}

    divergence = lambda outputs, reference, batch, temperature=1.0: jnp.mean(
        (outputs["image"] - reference["image"]) ** 2, axis=(1, 2, 3)
    )
    return Task(init, apply, loss, lambda *_: {}, divergence=divergence, generate=generate)


_ADAM = {"optimizer": "adam", "learning_rate": 0.05, "batch_size": 32}
METHODS = {
    "retrain": {},
    "finetune": {**_ADAM, "num_epochs": 1},
    "gradient_ascent": {**_ADAM, "num_epochs": 10, "max_loss": 2.0},
}


def get_config(arg: str = "") -> ConfigDict:
    arg = unlearn.with_defaults(
        arg, f"{HERE}:corners", model=f"{HERE}:Nothing", forget="class:2", seeds="1"
    )
    dataset = f"{HERE}:corners"
    config = unlearn.get_config(arg, dataset=dataset, methods=METHODS, chosen=tuple(METHODS))
    config.task = f"{HERE}:painting"
    config.evaluation = "experiments.common.evaluations.generation:EVALUATION"
    config.train.learning_rate, config.train.num_epochs = 0.1, 4
    config.train.optimizer, config.rounding.num_perturbed = "adam", 0
    diffusion.set_audits(config, {})
    config.evaluate.answers.per_class = 20
    judges = config.evaluate.judges
    judges.model.options.update({"channels": (8, 8), "hidden": 16})
    judges.train.update({"num_epochs": 5, "learning_rate": 0.01, "batch_size": 32})
    return config
