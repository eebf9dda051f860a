"""Answers of a few tokens, and a small decoder, for tests of language models."""

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import models

V, B, T = 7, 3, 6
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (B, T + 1)).astype(np.int32)
ANSWER = np.array([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0]], np.float32)
BATCH = {
    "inputs": jnp.asarray(TOKENS[:, :-1]),
    "targets": jnp.asarray(TOKENS[:, 1:]),
    "answer": jnp.asarray(ANSWER),
}
KEY = jax.random.key(0)
SMALL = models.DecoderConfig(
    vocab_size=V, width=8, depth=1, num_heads=2, num_kv_heads=1, mlp_width=10, rope_base=20.0
)
PROMPTS = {
    "condition": jnp.asarray(RNG.integers(0, V, (4, 4)).astype(np.int32)),
    "condition_length": jnp.array([1, 2, 3, 4]),
    "index": jnp.array([5, 3, 8, 0]),
}


def outputs(task, variables, batch=BATCH):
    return task.apply(variables, batch, None, False)[0]
