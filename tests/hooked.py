"""Models whose activations are hooked: Linen with remat, NNX with remat, functions with loops."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from unlearnjax import tasks

N, D, H, C = 5, 4, 6, 3


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(H)(x))
        return nn.relu(nn.Dropout(0.5, deterministic=not train)(x))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.Dense(H, name="first")(inputs)
        block = nn.remat(LinenBlock, static_argnums=(2,))
        for i in range(2):
            x = block(name=f"block_{i}")(x, train)
        return {"logits": nn.Dense(C, name="out")(x), "features": x}


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(H, H, rngs=rngs)
        self.norm = nnx.BatchNorm(H, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    @nnx.remat
    def __call__(self, x):
        return nnx.relu(self.dropout(self.norm(self.linear(x))))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(D, H, rngs=rngs)
        self.inner = NNXBlock(rngs)
        self.out = nnx.Linear(H, C, rngs=rngs)

    def __call__(self, x):
        x = self.inner(self.first(x))
        return {"logits": self.out(x), "features": x}


@jax.checkpoint
def block(w, x):
    """Of the module, so that jax keeps what it has traced of it."""
    return tasks.tap("block", jnp.tanh(x @ w))


@jax.jit
def middle(w, x):
    return tasks.tap("middle", jnp.sin(x @ w))


def own_init(rng, batch):
    keys = jax.random.split(rng)
    shapes = {"first": (D, H), "w": (H, H)}
    return {"params": {k: jax.random.normal(r, shapes[k]) for k, r in zip(shapes, keys)}}  # noqa: B905


def own_apply(variables, batch, rng, train):
    params = variables["params"]
    x = tasks.tap("first", batch["inputs"] @ params["first"])
    x = middle(params["w"], block(params["w"], x))

    def turn(x, _):
        x = tasks.tap("turn", jnp.tanh(x @ params["w"]))
        return x, x.sum()

    x, sums = jax.lax.scan(turn, x, None, length=2)
    return {"logits": x[:, :C] + sums[0], "features": x}, variables


TASKS = {
    "linen": tasks.classification(tasks.from_linen(LinenNet())),
    "nnx": tasks.classification(tasks.from_nnx(NNXNet)),
    "own": tasks.classification(tasks.Model(own_init, own_apply)),
}
NAMES = {
    "linen": ("first", "block_0", "block_1.Dense_0", "block_1.Dropout_0", "out"),
    "nnx": ("first", "inner", "inner.linear", "inner.dropout", "out"),
    "own": ("first", "block", "middle", "turn"),
}
BATCH = {
    "inputs": jax.random.normal(jax.random.key(1), (N, D)),
    "targets": jnp.arange(N) % C,
    "index": jnp.arange(N),
}
VARIABLES = {name: task.init(jax.random.key(0), BATCH) for name, task in TASKS.items()}
identity = lambda h, batch: h
