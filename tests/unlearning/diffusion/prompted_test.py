"""Every method on a model that reads prompts, whole and confined to parts of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.unlearning.diffusion import prompted, toy
from unlearnjax import trees, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.confined import moving
from unlearnjax.unlearning.diffusion import concept_ablation, esd, leaves

PROCESS, PARAMS = prompted.PROCESS, prompted.VARIABLES["params"]
GONE = ("a one in neon style", "a two in neon style", "neon style", "a one in neon style")
KEPT = ("a one in photo style", "a two in photo style", "photo style", "a one")


def rows(texts, first):
    data = toy.images(np.random.default_rng(first), [0] * len(texts), PROCESS, first)
    return {**data, "condition": prompted.prompts(*texts), "targets": jnp.zeros(len(texts))}


def told(words):
    return jnp.array([prompted.concept(text.replace("neon", words), words) for text in GONE])


ANCHORS = prompted.prompts(*(text.replace("neon", "photo") for text in GONE))
TOLD = {"anchor.condition": ANCHORS, "concept": told("neon"), "anchor.concept": told("photo")}
REQUEST = Request({**rows(GONE, 0), **TOLD}, rows(KEPT, 4))
ADAMW = optax.adamw(1e-2, weight_decay=0.1)
SHORT = {"num_steps": 2, "batch_size": 2}
METHODS = {
    "finetune": unlearning.finetune(ADAMW, num_epochs=1, batch_size=2),
    "gradient_ascent": unlearning.gradient_ascent(ADAMW, max_loss=1.0, num_epochs=1, batch_size=2),
    "esd": unlearning.esd(ADAMW, PROCESS, bank=2, **SHORT),
    "concept_ablation": unlearning.concept_ablation(ADAMW, PROCESS, num_images=2, **SHORT),
    "salun_diffusion": unlearning.salun_diffusion(ADAMW, PROCESS, **SHORT),
    "selective_amnesia": unlearning.selective_amnesia(
        ADAMW, PROCESS, surrogate="anchor", num_images=2, **SHORT
    ),
    "forget_me_not": unlearning.forget_me_not(ADAMW, PROCESS, **SHORT),
}


def updated(method, variables, request):
    method = unlearning.enforce(method)
    return method.update(jax.random.key(0), prompted.TASK, variables, (), request)[0]


# Tracing each of them takes seconds; the slow test runs all.
@pytest.mark.parametrize("name", ["esd", "selective_amnesia"])
def test_it_can_be_compiled_where_it_is_confined(name):
    method = unlearning.confined(METHODS[name], **leaves.ESD_U)
    found = jax.eval_shape(lambda *given: updated(method, *given), prompted.VARIABLES, REQUEST)
    form = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert form(found) == form(prompted.VARIABLES)


def test_nothing_to_learn_has_no_slope():
    """ESD at eta -1, where the original says what is aimed at, and CA towards the prompt itself."""
    batch = {**REQUEST.forget, "part": jnp.zeros(4, jnp.int32)}
    itself = {**batch, "anchor.condition": batch["condition"]}

    @jax.jit
    def slopes(params):
        def of(objective, batch):
            loss = lambda p: toy.losses_of(
                objective, prompted.TASK, {"params": p}, batch, {"original": prompted.VARIABLES}
            )
            value, slope = jax.value_and_grad(lambda p: loss(p).sum())(params)
            return value, optax.tree.norm(slope)

        erase = lambda eta: esd.erasing(PROCESS, eta, 3.0, 5, 2, "student")
        return {
            "esd": of(erase(-1.0), batch),
            "ablation": of(concept_ablation.ablating("original", 0.0), itself),
            "other eta": of(erase(1.0), batch),
            "other anchor": of(concept_ablation.ablating("original", 0.0), batch),
        }

    for name, (value, slope) in slopes(PARAMS).items():
        if "other" in name:
            assert value > 1e-3 and slope > 1e-3
        else:
            assert value < 1e-9 and slope < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("place", "name"), enumerate(METHODS))
def test_what_is_not_meant_stays_bit_equal(place, name):
    choice = (leaves.ESD_X, leaves.ESD_U)[place % 2]  # they are confined alike, so in turn
    method = unlearning.confined(METHODS[name], **choice)
    after = jax.jit(lambda *given: updated(method, *given))(prompted.VARIABLES, REQUEST)
    same = jax.tree.map(np.array_equal, after["params"], PARAMS)
    moved = [n for n, s in zip(trees.names(same), jax.tree.leaves(same), strict=True) if not s]
    assert set(moved) <= set(moving(PARAMS, **choice)) and moved
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
