"""A toy that denoises: one number per condition, and what is made of it."""

import jax
import jax.numpy as jnp

from unlearnjax import diffusion, tasks

SHAPE = (2, 2, 1)
NULL = 3
PROCESS = diffusion.Process(diffusion.cosine(20), SHAPE, NULL)


def apply(variables, batch, rng, train):
    """`tanh(w x_t) + b_condition + time / 100`, per pixel."""
    params = variables["params"]
    told = params["b"][batch["condition"]] + batch["time"] / 100
    hidden = tasks.tap("h", jnp.tanh(batch["noised"] * params["w"]))
    return {"prediction": hidden + told[:, None, None, None]}, variables


def init(rng, batch):
    w, b = jax.random.split(rng)
    shape = batch["noised"].shape[1:]
    return {"params": {"w": jax.random.normal(w, shape), "b": jax.random.normal(b, (NULL + 1,))}}


MODEL = tasks.Model(init, apply)


def task(process=PROCESS, **options):
    return tasks.diffusion(MODEL, process, **options)


VARIABLES = init(jax.random.key(0), {"noised": jnp.zeros((1, *SHAPE))})


PROMPTED = PROCESS._replace(null=(NULL, 8, 8, 9, 9))


def prompts(condition):
    """Five tokens `[B, 5]`, of which the first is the condition."""
    first = jnp.asarray(condition, jnp.int32)[:, None]
    return jnp.concatenate([first, jnp.tile(jnp.array(PROMPTED.null[1:]), (len(first), 1))], 1)


def of_prompts(model):
    """A model of classes as one that reads prompts, and looks at their first token."""
    told = lambda batch: {**batch, "condition": batch["condition"][:, 0]}
    apply = lambda v, batch, rng, train: model.apply(v, told(batch), rng, train)
    return tasks.Model(lambda rng, batch: model.init(rng, told(batch)), apply)


def data(n=5):
    inputs = jax.random.uniform(jax.random.key(1), (n, *SHAPE), minval=-1.0)
    condition = jnp.arange(n, dtype=jnp.int32) % NULL
    index = jnp.arange(n, dtype=jnp.int32)
    return {"inputs": inputs, "condition": condition, "targets": condition, "index": index}
