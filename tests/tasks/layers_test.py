import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from unlearnjax import tasks

EXAMPLE = {"inputs": jnp.ones((1, 4)), "targets": jnp.zeros(1, jnp.int32)}


class Linen(nn.Module):
    """Names that are not in alphabetical order, a shared layer, a parameter beside layers."""

    @nn.compact
    def __call__(self, x, train=False):
        shared = nn.Dense(4, name="shared")
        offset = self.param("offset", nn.initializers.zeros, (4,))
        x = nn.Dense(4, name="zebra")(x + offset)
        x = nn.jit(nn.Dense)(4, name="jitted")(shared(x))
        x = nn.remat(nn.Dense)(4, name="rematerialised")(x)
        return nn.Dense(2, name="alpha")(shared(x))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.z, self.a = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.a(self.z(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.head, self.body = nnx.Linear(4, 2, rngs=rngs), Block(rngs)

    def __call__(self, x):
        return self.head(self.body(x))


def init(rng, batch):
    del rng, batch
    layer = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    stack = {"w": jnp.ones((3, 4, 4)), "b": jnp.ones((3, 4))}
    return {"params": {"a_last": jnp.ones((4, 2)), "first": layer, "stack": stack}}


def apply(variables, batch, rng, train):
    params = variables["params"]
    x = batch["inputs"] @ params["first"]["w"] + params["first"]["b"]
    x, _ = jax.lax.scan(lambda x, p: (x @ p["w"] + p["b"], None), x, params["stack"])
    return {"logits": x @ params["a_last"]}, variables


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (tasks.from_linen(Linen()), ["zebra", "shared", "jitted", "rematerialised", "alpha"]),
        (tasks.from_nnx(Nnx), ["body.z", "body.a", "head"]),
        (tasks.Model(init, apply), ["first", "stack"]),
        (
            tasks.Model(
                lambda rng, batch: {"params": {"z": jnp.ones((4, 4)), "a": jnp.ones((4, 2))}},
                lambda v, b, rng, train: (
                    {"logits": b["inputs"] @ v["params"]["z"] @ v["params"]["a"]},
                    v,
                ),
            ),
            ["z", "a"],
        ),
    ],
)
def test_layers_come_in_the_order_of_use_whatever_the_library(model, names):
    task = tasks.classification(model)
    variables = task.init(jax.random.key(0), EXAMPLE)
    assert tasks.layer_names(task, variables, EXAMPLE) == names
    inside = []
    jax.eval_shape(lambda v: inside.extend(tasks.layer_names(task, v, EXAMPLE)), variables)
    assert inside == names
