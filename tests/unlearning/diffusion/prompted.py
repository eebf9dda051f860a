"""A small denoiser that reads prompts: a text encoder and cross-attention by the usual names."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax import diffusion, tasks

WORDS = ("<s>", "</s>", "a", "style", "neon", "photo", "one", "two", "deep", "blue", "in")
LENGTH = 7
START, END = 0, 1
NULL = (START, *[END] * (LENGTH - 1))
PROCESS = diffusion.Process(diffusion.linear(50, 1e-3, 0.2), (2, 2, 1), NULL, "v", 1.0)
WIDTH = 8


def prompt(text):
    words = [WORDS.index(word) for word in text.split()]
    return [START, *words, *[END] * (LENGTH - 1 - len(words))]


def prompts(*texts):
    return jnp.array([prompt(text) for text in texts], jnp.int32)


def concept(text, words):
    """1 at the places of these words in a prompt."""
    meant = [WORDS.index(word) for word in words.split()]
    return [int(token in meant) for token in prompt(text)]


class Encoder(nn.Module):
    """Causal: each token and the mean of those up to it, then two layers of residual MLPs."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(len(WORDS), WIDTH, name="tokens")(tokens)
        for i in range(2):
            x = Layer(name=f"layer_{i}")(x)
        return {"hidden": nn.LayerNorm(name="norm")(x), "pooled": x[:, -1]}


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        before = jnp.cumsum(x, axis=1) / jnp.arange(1, x.shape[1] + 1)[:, None]
        x = x + Mixed(name="attention")(before)
        y = nn.gelu(nn.Dense(2 * WIDTH, name="mlp_in")(x))
        return x + nn.Dense(WIDTH, name="mlp_out")(y)


class Mixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, name="out")(nn.Dense(WIDTH, name="qkv")(x))


class Softmax(nn.Module):
    def __call__(self, query, key):
        return nn.softmax(jnp.einsum("bthd,blhd->bhtl", query, key))


class Cross(nn.Module):
    @nn.compact
    def __call__(self, x, text):
        heads = lambda y: y.reshape(*y.shape[:2], 2, -1)
        dense = lambda name: nn.Dense(6, use_bias=False, name=name)
        query, key, value = dense("query")(x), dense("key")(text), dense("value")(text)
        shares = Softmax(name="weights")(heads(query), heads(key))
        y = jnp.einsum("bhtl,blhd->bthd", shares, heads(value)).reshape(*x.shape[:2], -1)
        return nn.Dense(x.shape[-1], name="out")(y)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, text):
        x = x + Mixed(name="attention")(x)
        x = x + Cross(name="cross")(x, text)
        return x + nn.Dense(WIDTH, name="mlp_out")(nn.gelu(nn.Dense(WIDTH, name="mlp_in")(x)))


class Denoiser(nn.Module):
    @nn.compact
    def __call__(self, noised, time, text):
        x = nn.Dense(WIDTH, name="patches")(noised.reshape(len(noised), -1, 1))
        told = nn.Dense(WIDTH, name="time_out")(
            nn.silu(nn.Dense(4, name="time_in")(time[:, None] / 50))
        )
        x = x + told[:, None]
        for i in range(2):
            x = Block(name=f"block_{i}")(x, text)
        x = x + self.param("table", nn.initializers.normal(), (WIDTH,))
        return nn.Dense(1, name="pixels")(x).reshape(noised.shape)


class Network(nn.Module):
    def setup(self):
        self.text_encoder = Encoder()
        self.denoiser = Denoiser()

    def __call__(self, noised, time, condition, train=False):
        del train
        text = self.text_encoder(condition)["hidden"]
        return {"prediction": self.denoiser(noised, time, text)}


MODEL = tasks.from_linen(Network(), ("noised", "time", "condition"))
TASK = tasks.diffusion(MODEL, PROCESS, condition_dropout=0.0, num_draws=4)
VARIABLES = jax.jit(MODEL.init)(
    jax.random.key(0),
    {"noised": jnp.ones((1, 2, 2, 1)), "time": jnp.ones(1), "condition": prompts("a")},
)
