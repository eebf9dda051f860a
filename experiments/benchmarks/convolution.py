"""Ways to convolve, in and out of `scan`: why `models.layers.conv` chooses by platform."""

from functools import partial

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
from unlearnjax.models import layers

WAYS = {
    "layers.conv": layers.conv,
    "patches": layers.conv_patches,
    "native": layers.conv_native,
}


def run(num_steps: int = 5, batch_size: int = 100, repeats: int = 3):
    """Yields one record outside and one inside scan: gradient steps of a two-layer network."""
    x = jax.random.normal(jax.random.key(0), (batch_size, 28, 28, 1))
    kernels = (jnp.full((3, 3, 1, 32), 0.1), jnp.full((3, 3, 32, 64), 0.01))

    def step(conv, kernels, x):
        def loss(kernels):
            hidden = layers.max_pool(jax.nn.relu(conv(x, kernels[0])))
            return jnp.mean(conv(hidden, kernels[1]) ** 2)

        return jax.tree.map(lambda k, g: k - 0.1 * g, kernels, jax.grad(loss)(kernels))

    def outside(conv):
        compiled = jax.jit(partial(step, conv))

        def call():
            current = kernels
            for _ in range(num_steps):
                current = compiled(current, x)
            return current

        return call

    def inside(conv):
        def call(kernels, x):
            return jax.lax.scan(lambda k, _: (step(conv, k, x), None), kernels, length=num_steps)[0]

        return timing.program(call, kernels, x)

    for place, build in (("outside scan", outside), ("inside scan", inside)):
        calls = {name: build(conv) for name, conv in WAYS.items()}
        yield timing.compare("convolution", place, calls, repeats)
