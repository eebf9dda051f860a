import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import models, training
from unlearnjax.training import ensembles

N, MODELS = 120, 8


@pytest.fixture(scope="module")
def setup():
    data = {k: jnp.asarray(v) for k, v in problems.digits(N).items()}
    task = problems.mlp((8,))
    masks = ensembles.random_masks(jax.random.key(0), MODELS, N, 0.5)
    rngs = jax.random.split(jax.random.key(1), MODELS)
    return task, data, masks, rngs


def run(setup, chosen=slice(None), **options):
    task, data, masks, rngs = setup
    return ensembles.train_ensemble(
        task,
        optax.adam(5e-3),
        data,
        ensembles.mask_indices(masks)[chosen],
        rngs[chosen],
        lambda v, data: (v["params"], training.evaluate(task, v, data)["margin"]),
        num_epochs=3,
        batch_size=30,
        **options,
    )


def test_subsets_have_the_stated_size_and_differ(setup):
    masks = np.asarray(setup[2])
    assert (masks.sum(1) == N // 2).all() and len(np.unique(masks, axis=0)) == MODELS
    assert masks.any(0).all()  # nobody is left out by design
    assert ensembles.random_subsets(jax.random.key(0), 2, 10, 0.3).shape == (2, 3)
    assert ensembles.random_subsets(jax.random.key(0), 2, 10).shape == (2, 5)
    indices = ensembles.mask_indices(np.array([[1, 0, 1], [0, 0, 1]], bool))
    np.testing.assert_array_equal(indices, [[0, 2], [2, -1]])


def test_each_model_is_the_one_trained_alone(setup):
    task, data, masks, rngs = setup
    params, margins = run(setup, axis="vmap")
    for m in (0, 5):
        state, _ = jax.jit(
            lambda i, r: training.train(
                task, optax.adam(5e-3), data, i, r, num_epochs=3, batch_size=30
            )
        )(jnp.flatnonzero(masks[m]), rngs[m])
        own = jax.tree.map(lambda x, m=m: x[m], params)
        problems.assert_trees_close(own, state.variables["params"], rtol=1e-3)
        expected = training.evaluate(task, state.variables, data)["margin"]
        np.testing.assert_allclose(margins[m], expected, atol=1e-2)


def test_neither_chunks_nor_devices_nor_the_axis_change_a_model(setup):
    whole = run(setup, axis="map")
    parts = [run(setup, slice(i, i + 4), axis="map") for i in (0, 4)]
    chunked = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    problems.assert_trees_close(chunked, whole, rtol=1e-5)
    mesh = ensembles.model_mesh(jax.devices()[:4])
    problems.assert_trees_close(run(setup, axis="map", mesh=mesh), whole, rtol=1e-5)
    problems.assert_trees_close(run(setup, axis="vmap"), whole, rtol=1e-3)


def test_convolutional_models_go_one_after_another_on_a_cpu(setup):
    data = setup[1]
    assert ensembles.fastest_axis(setup[0], data) == "vmap"
    convnet = problems.linen(models.ConvNet(num_classes=10))
    assert ensembles.fastest_axis(convnet, data) == "map"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "scan"}, "axis must be one of"),
        ({"chosen": slice(0, 3), "mesh": 2}, "must be a multiple of the 2 devices, got 3"),
    ],
)
def test_bad_values_are_named(setup, options, message):
    if "mesh" in options:
        options = {**options, "mesh": ensembles.model_mesh(jax.devices()[:2])}
    with pytest.raises(ValueError, match=message):
        run(setup, **options)
    with pytest.raises(ValueError, match="share must lie in"):
        ensembles.random_masks(jax.random.key(0), 3, 10, 1.0)
