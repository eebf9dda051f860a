"""One small network, as a Linen module, as an NNX module, and as plain functions over a list."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from unlearnjax import tasks, trees

INPUTS, HIDDEN, CLASSES = 5, 7, 3


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        return nn.Dense(CLASSES, name="out")(nn.tanh(nn.Dense(HIDDEN, name="hidden")(inputs)))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(INPUTS, HIDDEN, rngs=rngs)
        self.out = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, inputs):
        return self.out(jnp.tanh(self.hidden(inputs)))


def plain_net():
    """Parameters `[[W, b], [W, b]]`, of names '0.0' to '1.1'."""

    def init(rng, batch):
        first, second = jax.random.split(rng)
        normal = jax.random.normal
        hidden = [normal(first, (INPUTS, HIDDEN)), jnp.zeros(HIDDEN)]
        return {"params": [hidden, [normal(second, (HIDDEN, CLASSES)), jnp.zeros(CLASSES)]]}

    def apply(variables, batch, rng, train):
        (w, b), (v, c) = variables["params"]
        return {"logits": jnp.tanh(batch["inputs"] @ w + b) @ v + c}, variables

    return tasks.Model(init, apply)


MODELS = {
    "linen": lambda: tasks.from_linen(LinenNet()),
    "nnx": lambda: tasks.from_nnx(NNXNet),
    "plain": plain_net,
}
# What the last layer and its kernel are called.
LAST = {"linen": ("out", "out.kernel"), "nnx": ("out", "out.kernel"), "plain": ("1", "1.0")}


def task(name):
    return tasks.classification(MODELS[name]())


def data(n=6):
    return {
        "inputs": jax.random.normal(jax.random.key(7), (n, INPUTS)),
        "targets": jnp.arange(n) % CLASSES,
        "index": jnp.arange(n),
    }


def random_like(shapes, scale=0.4):
    """A model of these shapes; norms are near 1. Compiles nothing."""
    rng = np.random.default_rng(11)
    draw = lambda path, leaf: jnp.asarray(
        scale * rng.normal(size=leaf.shape) + ("scale" in trees.path_name(path)), leaf.dtype
    )
    return jax.tree_util.tree_map_with_path(draw, shapes)


def shaken(tree, scale=0.3):
    """The tree with noise on every entry, so that nothing in it is 0 by its start."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(11), len(leaves))
    return treedef.unflatten(
        x + scale * jax.random.normal(k, x.shape, x.dtype)
        for k, x in zip(keys, leaves, strict=True)
    )
