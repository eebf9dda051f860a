import types

import flax.linen as nn
import jax.numpy as jnp
import optax
import pytest

from experiments import measure
from unlearnjax import tasks, unlearning
from unlearnjax.types import Request


class Logits(nn.Module):
    """A model without 'features'."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_every_method_that_a_model_cannot_serve_is_named_with_the_reason(digits):
    forget, retain = ({k: jnp.asarray(v[s]) for k, v in digits.items()} for s in ([1, 2], [3, 4]))
    task = tasks.classification(tasks.from_linen(Logits()))
    bench = types.SimpleNamespace(task=task, train=forget, request=Request(forget, retain, retain))
    tx = optax.sgd(0.1)
    unlearners = {
        "boundary_expand": unlearning.boundary_expand(tx),
        "laf": unlearning.laf(tx),
        "acu": unlearning.acu(16, backbone="model"),
        "finetune": unlearning.finetune(tx),
    }
    why = r"the model must return \{.*'features'.*\}, it returns \['logits'\] alone"
    with pytest.raises(ValueError, match=f"^boundary_expand: {why}; laf: {why}; acu: {why}$"):
        measure.validate(bench, unlearners)
    measure.validate(bench, {"finetune": unlearners["finetune"]})
