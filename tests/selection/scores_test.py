import jax.numpy as jnp
import numpy as np
import scipy.special
from sklearn.neighbors import NearestCentroid

from unlearnjax.selection import scores


def test_el2n_is_the_distance_to_the_label(rng):
    logits, targets = rng.normal(size=(9, 4)), rng.integers(0, 4, 9)
    wanted = np.linalg.norm(scipy.special.softmax(logits, axis=1) - np.eye(4)[targets], axis=1)
    np.testing.assert_allclose(scores.el2n(jnp.asarray(logits), targets), wanted, atol=1e-6)


def test_prototypes_are_the_centroids_of_scikit_learn(rng):
    features, targets = rng.normal(size=(30, 5)), rng.permutation(np.arange(30) % 3)
    centroids = NearestCentroid().fit(features, targets).centroids_
    wanted = np.linalg.norm(features - centroids[targets], axis=1)
    found = scores.prototype_distance(jnp.asarray(features), jnp.asarray(targets), 3)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_memorisation_is_what_an_example_adds_to_itself(rng):
    weight = rng.normal(size=(5, 8))  # five training examples, and three more outputs
    np.testing.assert_allclose(
        scores.memorisation(jnp.asarray(weight)), [weight[i, i] for i in range(5)], rtol=1e-6
    )
