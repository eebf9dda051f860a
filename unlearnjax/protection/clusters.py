"""Noise that images of a cluster share, found without labels.

Zhang, Ma, Yi, Sang, Jiang, Wang, Xu, "Unlearnable Clusters: Towards Label-agnostic Unlearnable
Examples", CVPR 2023 (arXiv 2301.01217).
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearnjax import checks, models, tasks, training
from unlearnjax.protection.noise import added, random_noise
from unlearnjax.protection.types import Protection, validate_pixels
from unlearnjax.types import Array, Data, PyTree, Task, Variables

MODES = ("direct", "generator", "random")
OVER = ("all", "own")


class ClusterNoise(NamedTuple):
    """What `clusters` remembers.

    Attributes:
      noise: `[P, H, W, K]`, within epsilon.
      centres: `[P, D]`, of features.
      cluster: `[N]`, of the images that were fitted.
    """

    noise: Array
    centres: Array
    cluster: Array


def clusters(
    task: Task,
    variables: Variables,
    *,
    num_clusters: int = 10,
    epsilon: float = 16 / 255,
    mode: str = "direct",
    over: str = "all",
    tx: optax.GradientTransformation | None = None,
    num_steps: int = 100,
    batch_size: int = 128,
    generator: nn.Module | None = None,
) -> Protection:
    """Unlearnable Clusters: k-means of features, and per cluster a noise towards another cluster.

    With f the features of a surrogate model and mu_j the centre of cluster j, the noise d_j
    descends the mean over images of `KL(softmax(mu_k) || softmax(f(clip(x + d_j, 0, 1))))`, k the
    next cluster, j + 1 (mod P), as in the published code; the paper says any permutation that
    leaves no cluster in its place. Clusters are scikit-learn's `KMeans`, on the host, its seed from
    the key. The noise is `epsilon * tanh(...)`: the published clipping of a generator's output has
    no gradient outside of the budget. Cost: the features of all images; per cluster `num_steps`
    forward and backward passes over a batch, one program for all clusters.

    Args:
      task, variables: of the surrogate, whose inputs are pixels in [0, 1] (see
        `training.of_pixels`), and which returns 'features'. It must not have learned from the
        images that are protected with a hacker's labels.
      num_clusters: P, from 2 to the number of images.
      epsilon: most that a pixel changes, in (0, 1].
      mode: 'direct' optimises the noise itself, from 0; 'generator' a network that draws it from a
        fixed image of uniform noise, as published; 'random' is a control, `random_noise` of the
        same budget.
      over: images that a noise is optimised on: 'all', as the published code, or its 'own' cluster,
        as the paper; batches are drawn with replacement.
      tx: minimises; default Adam, with 0.05 for 'direct' and 1e-4 for 'generator', for which the
        published code has a decay of weights of 5e-4 and a cosine to 1e-6 as well, over 50 epochs.
      num_steps, batch_size: of the optimisation.
      generator: for that mode, `module(image, train) -> [-1, 1]`; default `models.Generator`. In
        training mode throughout, with the statistics of its one image: it is the noise that is
        kept, not the network, which in evaluation mode would draw another.

    Returns:
      A protection that needs no labels; its memory is a `ClusterNoise`. `apply` gives each image
      the noise of the nearest centre, or, where the data has the column `cluster` (`[N]`, that of
      the memory, say), of that cluster.

    Raises:
      ValueError: for a value out of range, a model without features; where it is used, for inputs
        that are no images in [0, 1], more clusters than images, or features that are not finite.
    """
    checks.one_of(mode=(mode, MODES), over=(over, OVER))
    checks.whole(num_clusters=num_clusters, num_steps=num_steps, batch_size=batch_size)
    checks.at_least(2, num_clusters=num_clusters)
    checks.at_least(1, num_steps=num_steps, batch_size=batch_size)
    checks.part(epsilon=epsilon)
    tx = tx or optax.adam(1e-4 if mode == "generator" else 0.05)

    features = jax.jit(
        lambda inputs: tasks.features(training.outputs(task, variables, {"inputs": inputs}))
    )

    def fit(rng: Array, data: Data) -> ClusterNoise:
        inputs = jnp.asarray(data["inputs"])
        validate_pixels(inputs)
        if num_clusters > len(inputs):
            raise ValueError(
                f"num_clusters must be at most the {len(inputs)} images, got {num_clusters}"
            )
        seed_key, noise_key = jax.random.split(rng)
        seen = features(inputs)
        centres = _centres(np.asarray(seen), num_clusters, seed_key)
        cluster = nearest(seen, centres)
        if mode == "random":
            noise = random_noise(noise_key, num_clusters, inputs.shape[1:], epsilon)
        else:
            draw = _direct if mode == "direct" else _generated(generator, inputs.shape[-1])
            of_cluster = _optimised(task, variables, draw, epsilon, over, tx, num_steps, batch_size)
            towards = jnp.roll(centres, -1, axis=0)
            numbers = jnp.arange(num_clusters)
            noise = jax.jit(
                lambda inputs, cluster, *each: jax.lax.map(
                    lambda own: of_cluster(inputs, cluster, *own), each
                )
            )(inputs, cluster, jax.random.split(noise_key, num_clusters), numbers, towards)
        return ClusterNoise(noise, centres, cluster)

    def apply(memory: ClusterNoise, data: Data) -> Data:
        inputs = jnp.asarray(data["inputs"])
        validate_pixels(inputs)
        cluster = data.get("cluster")
        if cluster is None:
            cluster = nearest(features(inputs), memory.centres)
        return {**data, "inputs": added(inputs, memory.noise, cluster)}

    return Protection(fit, apply, frozenset())


@jax.jit
def nearest(features: Array, centres: Array) -> Array:
    """`[N]`: the nearest of `centres` `[P, D]` to each of `features` `[N, D]`."""
    products = features @ centres.T
    return jnp.argmin(jnp.sum(centres**2, axis=1) - 2 * products, axis=1)


def _centres(features: np.ndarray, number: int, rng: Array) -> Array:
    """Of k-means, the best of ten starts."""
    from sklearn.cluster import KMeans

    if not np.isfinite(features).all():
        raise ValueError("features must be finite, some are not")
    seed = int(jax.random.randint(rng, (), 0, np.iinfo(np.int32).max))
    return jnp.asarray(KMeans(number, n_init=10, random_state=seed).fit(features).cluster_centers_)


# (key, shape of an image) -> (start, its values in [-1, 1] as a function of it)
Draw = Callable[[Array, tuple[int, ...]], tuple[PyTree, Callable[[PyTree], Array]]]


def _direct(rng: Array, shape: tuple[int, ...]):
    del rng
    return jnp.zeros(shape), jnp.tanh


def _generated(generator: nn.Module | None, channels: int) -> Draw:
    """A network of a fixed image."""
    network = models.Generator(channels) if generator is None else generator

    def draw(rng: Array, shape: tuple[int, ...]):
        init_key, image_key = jax.random.split(rng)
        image = jax.random.uniform(image_key, (1, *shape))
        start = network.init(init_key, image, train=True)

        def values(params):
            # Its running statistics are of no use: they are never read.
            drawn, _ = network.apply({**start, "params": params}, image, train=True, mutable=True)
            return drawn[0]

        return start["params"], values

    return draw


def _optimised(task, variables, draw: Draw, epsilon, over, tx, num_steps, batch_size):
    """`(images, cluster of each, key, number, centre) -> noise` of the cluster of that number."""

    def of_cluster(inputs, cluster, rng, number, towards):
        start_key, batch_key = jax.random.split(rng)
        start, values = draw(start_key, inputs.shape[1:])
        log_shares = jnp.where((cluster == number) | (over == "all"), 0.0, -jnp.inf)
        goal = jax.nn.softmax(towards)[None]

        def loss(params, images):
            moved = jnp.clip(images + epsilon * values(params), 0, 1)
            outputs, _ = task.apply(variables, {"inputs": moved}, None, False)
            found = jax.nn.log_softmax(tasks.features(outputs))
            return optax.losses.kl_divergence(found, goal).mean()

        def step(carried, key):
            params, state = carried
            rows = jax.random.categorical(key, log_shares, shape=(batch_size,))
            updates, state = tx.update(jax.grad(loss)(params, inputs[rows]), state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(batch_key, num_steps)
        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), keys)
        return epsilon * values(params)

    return of_cluster
