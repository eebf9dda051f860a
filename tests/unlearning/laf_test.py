import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.laf import reconstruction_error


@pytest.fixture(scope="module")
def problem():
    data = problems.digits(800)
    task = problems.mlp((32,))
    state, _ = jax.jit(
        lambda rng: training.train(
            task, optax.adam(3e-3), data, jnp.arange(800), rng, num_epochs=12, batch_size=50
        )
    )(jax.random.key(0))
    mask = data["targets"] == 3
    unlabelled = {k: v for k, v in data.items() if k != "targets"}
    forget, retain = ({k: jnp.asarray(v[m]) for k, v in unlabelled.items()} for m in (mask, ~mask))
    return task, state.variables, Request(forget, retain), data, mask


def features(problem, variables, part):
    return np.asarray(problem[0].apply(variables, part, None, False)[0]["features"])


def nearest_centroid_distance(problem, variables):
    """Of the forget features to the original forget centroid, in units of their first spread."""
    task, original, request, *_ = problem
    before = features(problem, original, request.forget)
    centroid = before.mean(0)
    spread = np.linalg.norm(before - centroid, axis=1).mean()
    after = features(problem, variables, request.forget)
    return np.linalg.norm(after - centroid, axis=1).mean() / spread


def unlearned(problem, **options):
    """The variables, and their accuracies on forget and retain."""
    task, original, request, data, mask = problem
    method = unlearning.enforce(unlearning.laf(optax.adam(1e-3), num_epochs=5, **options))
    updated = jax.jit(lambda rng: method.update(rng, task, original, (), request)[0])(
        jax.random.key(0)
    )
    accuracy = np.asarray(training.evaluate(task, updated, data)["accuracy"])
    return updated, accuracy[mask].mean(), accuracy[~mask].mean()


def test_forget_features_leave_and_the_classifier_stays_bit_equal(problem):
    updated, forget, retain = unlearned(problem, align_weight=3.0)
    original = problem[1]
    problems.assert_trees_equal(updated["params"]["Dense_1"], original["params"]["Dense_1"])
    assert nearest_centroid_distance(problem, original) == pytest.approx(1)
    assert nearest_centroid_distance(problem, updated) > 1.7
    assert forget < 0.2 and retain > 0.85


def test_it_is_the_forget_term_that_forgets(problem):
    with_term = unlearned(problem, align_weight=3.0)[1]
    without = unlearned(problem, align_weight=3.0, forget_weight=0.0)[1]
    assert without > with_term + 0.2


def test_contrast_is_the_cross_entropy_of_the_own_pair_among_forget_features(rng):
    student, frozen = (rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
    batch = {"forget": jnp.array([0, 1, 0, 1, 1.0]), "weight": jnp.array([1, 1, 1, 1, 0.0])}
    term = objectives.contrast("original", temperature=0.5)
    value = term(None, {"features": student}, batch, {"original": {"features": frozen}})

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b) / 0.5

    for i in range(5):
        own = np.exp(cosine(student[i], frozen[i]))
        others = sum(np.exp(cosine(student[i], frozen[j])) for j in (1, 3))  # 4 is padding
        assert float(value[i]) == pytest.approx(-np.log(own / (own + others)), rel=1e-4)


def test_reconstruction_error_is_relative_and_bounded(rng):
    density = problems.linen(None)._replace(
        apply=lambda v, batch, rng, train: ({"reconstruction": 0 * batch["inputs"]}, v),
        metrics=lambda o, b: {
            "squared_error": jnp.mean((o["reconstruction"] - b["inputs"]) ** 2, -1)
        },
    )
    x = jnp.asarray(rng.normal(size=(4, 3)))
    term = reconstruction_error(density, {}, jnp.float32(2.0))
    np.testing.assert_allclose(
        term(None, {"features": x}, {}, {}), (np.asarray(x) ** 2).mean(1) / 4, rtol=1e-5
    )
    bounded = reconstruction_error(density, {}, jnp.float32(0.01), 1.0)
    np.testing.assert_array_equal(bounded(None, {"features": x}, {}, {}), 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget_weight": -1.0}, "forget_weight must be >= 0"),
        ({"max_error": 0.0}, "max_error must be > 0"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"latent": 0}, "latent must be >= 1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.laf(optax.sgd(0.1), **options)
