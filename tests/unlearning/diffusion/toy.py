"""Diffusion models small enough to be known by heart."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import diffusion, tasks

NUM_CLASSES = 3
PROCESS = diffusion.Process(
    diffusion.linear(50, 1e-3, 0.2), (1, 1, 1), NUM_CLASSES, "epsilon", None
)


def gaussian_task(process=PROCESS, **options):
    """Parameters are each condition's mean and log variance, predictions exact for those."""

    def init(rng, batch):
        del rng, batch
        return variables_of(np.zeros(NUM_CLASSES + 1), np.zeros(NUM_CLASSES + 1))

    def apply(variables, batch, rng, train):
        del rng, train
        noised, time, condition = (batch[name] for name in ("noised", "time", "condition"))
        noise = gaussian_noise(process, variables["params"], noised, time, condition)
        kinds = "epsilon", process.prediction
        said = diffusion.convert(process.schedule, noise, noised, time, *kinds)
        return {"prediction": said}, variables

    model = tasks.Model(init, apply)
    return tasks.diffusion(model, process, **{"condition_dropout": 0.0, "num_draws": 4, **options})


def gaussian_noise(process, params, noised, time, condition):
    """`E[noise | x_t]` for images `N(mean, exp(log_var))` of independent pixels."""
    a, s = (c[:, None, None, None] for c in diffusion.coefficients(process.schedule, time))
    mean, var = (f(params[k][condition])[:, None, None, None] for k, f in KINDS.items())
    return s * (noised - a * mean) / (a**2 * var + s**2)


KINDS = {"mean": lambda x: x, "log_var": jnp.exp}


def variables_of(mean, log_var):
    return {"params": {"mean": jnp.asarray(mean), "log_var": jnp.asarray(log_var)}}


class Network(nn.Module):
    """Two dense layers of everything that a denoiser is told; training scales what it says."""

    width: int = 8
    in_training: float = 1.0

    @nn.compact
    def __call__(self, noised, time, condition, train=False):
        told = [noised.reshape(len(noised), -1), time[:, None] / 50, jax.nn.one_hot(condition, 4)]
        x = nn.tanh(nn.Dense(self.width)(jnp.concatenate(told, axis=1)))
        x = nn.Dense(noised[0].size)(x).reshape(noised.shape)
        return {"prediction": x * (self.in_training if train else 1.0)}


def network_task(process, in_training=1.0, reading=lambda model: model, **options):
    model = tasks.from_linen(Network(8, in_training), ("noised", "time", "condition"))
    model = reading(model)
    return tasks.diffusion(model, process, **{"condition_dropout": 0.0, "num_draws": 4, **options})


def images(rng, condition, process, first=0):
    """Rows with images, random ones."""
    condition = jnp.asarray(condition, jnp.int32)
    n = condition.shape[0]
    return {
        "inputs": jnp.asarray(rng.uniform(-1, 1, size=(n, *process.shape)), jnp.float32),
        "condition": condition,
        "index": first + jnp.arange(n, dtype=jnp.int32),
    }


def losses_of(objective, task, variables, batch, teachers=None, seed=0):
    """What an objective says of each row of a batch, keyed as in a step."""
    batch = tasks.keyed({"weight": jnp.ones(len(batch["index"])), **batch}, jax.random.key(5))
    teachers = {"original": variables, **(teachers or {})}
    compiled = jax.jit(lambda v, t, b, key: objective(task, t)(v, b, key)[0])
    return compiled(variables, teachers, batch, jax.random.key(seed))


def drawn(task, batch, train):
    """The batch as `losses_of` has it after the draws."""
    batch = tasks.keyed({"weight": jnp.ones(len(batch["index"])), **batch}, jax.random.key(5))
    return jax.jit(lambda batch: tasks.drawn(task, batch, train))(batch)
