"""Decoder-only transformers: Llama, Mistral, Qwen, OLMo and GPT-2 as switches of one module.

Touvron et al., "Llama 2", 2023; Jiang et al., "Mistral 7B", 2023; Yang et al., "Qwen2.5" and
"Qwen3", 2024 and 2025; Groeneveld et al., "OLMo", ACL 2024; Radford et al., "Language Models are
Unsupervised Multitask Learners", 2019. Published weights come in by `pretrained.decoder`.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.types import Array

NORMS = ("rms", "layer", "unscaled")
POSITIONS = ("rope", "learned")
BIASES = ("none", "qkv", "attention", "all")


class RopeScaling(NamedTuple):
    """How Llama 3 slows rotations down that are longer than what it was first trained on.

    Attributes:
      factor: by which the slow ones are slowed down.
      low: what turns fewer times than this in `length` positions is slow.
      high: what turns more often is left alone; between the two, something between.
      length: positions of the first training.
    """

    factor: float
    low: float
    high: float
    length: int


class DecoderConfig(NamedTuple):
    """What makes one family of decoders another.

    Attributes:
      vocab_size: V, number of tokens.
      width: D, of the residual stream.
      depth: number of blocks.
      num_heads: attention heads.
      num_kv_heads: heads of keys and values, a divisor of those; `None` is all of them.
      head_dim: width of a head; `None` is D over the heads.
      mlp_width: hidden width of the MLP.
      norm: 'rms', 'layer', or 'unscaled', a layer norm without parameters (OLMo).
      norm_eps: what norms add to the variance.
      positions: 'rope', rotations of queries and keys, or 'learned' (GPT-2).
      max_length: of inputs: size of the table of learned positions; for rotations no bound.
      rope_base: of the wavelengths.
      rope_scaling: of Llama 3, or `None`.
      window: how many positions attention reaches, itself among them; `None` is all before.
      gated: an MLP gated by SiLU; else a plain one with the GELU that is made of a tanh (GPT-2).
      bias: which products have one: 'none', 'qkv' (Qwen2), all of 'attention', or 'all' (GPT-2).
      qk_norm: RMS norms of each head's queries and keys (Qwen3).
      clip_qkv: bound on queries, keys and values (OLMo), or `None`.
      tie_embeddings: the output matrix is the table of embeddings.
    """

    vocab_size: int
    width: int = 128
    depth: int = 4
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_width: int = 320
    norm: str = "rms"
    norm_eps: float = 1e-6
    positions: str = "rope"
    max_length: int = 1024
    rope_base: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    window: int | None = None
    gated: bool = True
    bias: str = "none"
    qk_norm: bool = False
    clip_qkv: float | None = None
    tie_embeddings: bool = True

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads if self.head_dim is None else self.head_dim


class Decoder(nn.Module):
    """A causal transformer over tokens `[B, T]`, padded on the right if at all.

    What it says at a position depends on no later one, so that padding needs no mask. Blocks are
    named `block_0`, .., their parts `attention.q`, `.k`, `.v`, `.o`, `mlp.gate`, `.up`, `.down`,
    so that layers are trained, captured and edited by name. There is no dropout.

    Returns `hidden` `[B, T, D]` after the last norm, `head` `[D, V]`, the output matrix, and their
    product `logits` `[B, T, V]`, float32; under `jit`, who does not use these does not pay for
    them. Where `positions` are given, also `cache.block_0.key` `[B, H, h, S]`,
    `cache.block_0.value` `[B, H, S, h]`, and so on: those of all positions so far, as products read
    them.

    Attributes:
      config: which decoder.
      dtype: compute type (`jnp.bfloat16` for mixed precision); `None` is that of the parameters,
        which are float32. Norms, rotations, softmax and logits are in float32 at least.
      remat: whether the backward pass computes each block again instead of keeping what is in it.
    """

    config: DecoderConfig
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        train: bool = False,
        positions: Array | None = None,
        cache: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """See the class.

        Args:
          inputs: `[B, T]` tokens.
          train: nothing depends on it.
          positions: `[B, T]` of each token, for decoding; `None` is 0 to T - 1. Without a cache
            they must be these, and make it.
          cache: what an earlier call returned, without the prefix 'cache.', filled up to as many
            positions S as wanted. Tokens are written at their positions and attend to what is at or
            before these.
        """
        del train
        config = self.config
        validate(config)
        length = _validated_length(config, inputs, positions, cache)
        at = jnp.arange(inputs.shape[1])[None] if positions is None else positions
        dense = nn.initializers.normal(0.02)
        table = nn.Embed(
            config.vocab_size, config.width, embedding_init=dense, dtype=self.dtype, name="embed"
        )
        x, turns = table(inputs), None
        if config.positions == "learned":
            x = x + nn.Embed(
                config.max_length,
                config.width,
                embedding_init=dense,
                dtype=self.dtype,
                name="positions",
            )(at)
        else:
            turns = rotations(config, at)
        places = jnp.arange(length)
        mask = places <= at[..., None]
        if config.window is not None:
            mask &= places > at[..., None] - config.window
        made = {}
        block = nn.remat(_Block) if self.remat and positions is None else _Block
        for i in range(config.depth):
            name = f"block_{i}"
            # What a block writes goes through a dict, so that the block returns one array, which
            # has the same name in training and in decoding.
            kept = None if positions is None else _part(cache or {}, name)
            x = block(config, self.dtype, name=name)(x, at, turns, mask[:, None], kept)
            made |= {f"cache.{name}.{own}": value for own, value in (kept or {}).items()}
        hidden = _norm(config, self.dtype, "norm")(x)
        if config.tie_embeddings:
            head = table.embedding.T
        else:
            head = self.param(
                "head", nn.initializers.lecun_normal(), (config.width, config.vocab_size)
            )
        head = head.astype(hidden.dtype)
        return {"hidden": hidden, "head": head, "logits": logits(hidden, head), **made}


def sized(
    num_classes: int,
    dtype: Any = None,
    width: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    mlp_width: int = 320,
    remat: bool = False,
) -> Decoder:
    """A decoder of the Llama kind by its size; other kinds are switches of a `DecoderConfig`.

    Args:
      num_classes: V, number of tokens.
      dtype, remat: see `Decoder`.
      width, depth, num_heads, num_kv_heads, mlp_width: see `DecoderConfig`.
    """
    sizes = (num_classes, width, depth, num_heads, num_kv_heads)
    return Decoder(DecoderConfig(*sizes, mlp_width=mlp_width), dtype, remat)


class _Block(nn.Module):
    """Attention and MLP, each of the normed stream and added to it."""

    config: DecoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, at: Array, turns, mask: Array, kept: dict | None) -> Array:
        config, dtype = self.config, self.dtype
        y = _norm(config, dtype, "attention_norm")(x)
        x = x + _Attention(config, dtype, name="attention")(y, at, turns, mask, kept)
        y = _norm(config, dtype, "mlp_norm")(x)
        return x + _MLP(config, dtype, name="mlp")(y)


class _Attention(nn.Module):
    config: DecoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, at: Array, turns, mask: Array, kept: dict | None) -> Array:
        config, size = self.config, self.config.head_width

        def heads(name, number):
            biased = config.bias != "none"
            found = _dense(number * size, biased, self.dtype, name)(x)
            if config.clip_qkv is not None:
                found = jnp.clip(found, -config.clip_qkv, config.clip_qkv)
            found = found.reshape(*x.shape[:-1], number, size)
            if name == "v":
                return found
            if config.qk_norm:
                norm = nn.RMSNorm(config.norm_eps, dtype=self.dtype, name=f"{name}_norm")
                found = norm(found)
            return found if turns is None else _rotated(found, *turns)

        query = heads("q", config.num_heads)
        key, value = heads("k", config.kv_heads), heads("v", config.kv_heads)
        if kept:
            rows = jnp.arange(x.shape[0])[:, None]
            kept["key"] = kept["key"].at[rows, :, :, at].set(key)
            kept["value"] = kept["value"].at[rows, :, at].set(value)
            y = _attended(query, kept["key"], kept["value"], mask)
        else:
            y = jax.nn.dot_product_attention(query, key, value, mask=mask)
            if kept is not None:
                kept |= {"key": jnp.einsum("bshi->bhis", key), "value": value.swapaxes(1, 2)}
        y = y.reshape(*x.shape[:-1], config.num_heads * size)
        biased = config.bias in ("attention", "all")
        return _dense(config.width, biased, self.dtype, "o", config.depth)(y)


def _attended(query: Array, key: Array, value: Array, mask: Array) -> Array:
    """As `jax.nn.dot_product_attention`, of keys and values as the cache has them.

    A turn of decoding reads the whole cache for one token: turning it round would be most of the
    work.

    Args:
      query: `[B, T, N, h]`.
      key: `[B, H, h, S]`, H dividing N.
      value: `[B, H, S, h]`.
      mask: `[B, 1, T, S]`.
    """
    rows, turns, _, size = query.shape
    grouped = query.reshape(rows, turns, key.shape[1], -1, size).swapaxes(1, 2)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    merged = grouped.reshape(rows, key.shape[1], -1, size)  # products of matrices, no more
    scores = jnp.matmul(merged, key, preferred_element_type=wide) / np.sqrt(size)
    scores = scores.reshape(*grouped.shape[:4], -1)
    scores = jnp.where(mask[:, :, :, None], scores, jnp.finfo(wide).min / 2)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    found = weights.reshape(*merged.shape[:3], -1) @ value
    return found.reshape(grouped.shape).swapaxes(1, 2).reshape(query.shape)


class _MLP(nn.Module):
    config: DecoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        config = self.config
        dense = functools.partial(_dense, biased=config.bias == "all", dtype=self.dtype)
        up = dense(config.mlp_width, name="up")(x)
        gated = config.gated
        y = nn.silu(dense(config.mlp_width, name="gate")(x)) * up if gated else nn.gelu(up)
        return dense(config.width, name="down", depth=config.depth)(y)


def logits(hidden: Array, head: Array) -> Array:
    """`[..., V]`, at least float32, of hidden states `[..., D]` and the output matrix `[D, V]`."""
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    return jnp.matmul(hidden, head, preferred_element_type=wide)


def rotations(config: DecoderConfig, at: Array) -> tuple[Array, Array]:
    """Cosines and sines of the angles `[B, T, 1, h / 2]` at positions `[B, T]`."""
    size = config.head_width
    # In NumPy and double precision, once; the product is as references have it, in float32.
    turn = config.rope_base ** -(np.arange(0, size, 2) / size)
    if config.rope_scaling is not None:
        factor, low, high, length = config.rope_scaling
        times = length * turn / (2 * np.pi)
        share = np.clip((times - low) / (high - low), 0, 1)
        turn = (1 - share) * turn / factor + share * turn
    angles = at[..., None, None].astype(jnp.float32) * turn.astype(np.float32)
    return jnp.cos(angles), jnp.sin(angles)


def validate(config: DecoderConfig) -> None:
    """Raises `ValueError` for a decoder that there cannot be."""
    checks.one_of(
        norm=(config.norm, NORMS),
        positions=(config.positions, POSITIONS),
        bias=(config.bias, BIASES),
    )
    sizes = ("vocab_size", "width", "depth", "num_heads", "mlp_width", "max_length")
    given = {name: getattr(config, name) for name in sizes}
    given |= {"num_kv_heads": config.kv_heads, "head_dim": config.head_width}
    given |= {} if config.window is None else {"window": config.window}
    checks.whole(**given)
    checks.at_least(1, **given)
    checks.positive(norm_eps=config.norm_eps, rope_base=config.rope_base)
    if config.clip_qkv is not None:
        checks.positive(clip_qkv=config.clip_qkv)
    if config.head_dim is None and config.width % config.num_heads:
        raise ValueError(
            f"num_heads must divide width {config.width} where head_dim is None, got "
            f"{config.num_heads}"
        )
    if config.num_heads % config.kv_heads:
        raise ValueError(
            f"num_kv_heads must divide num_heads {config.num_heads}, got {config.num_kv_heads}"
        )
    if config.positions == "rope" and config.head_width % 2:
        raise ValueError(f"head_dim must be even where it is rotated, got {config.head_width}")


def _validated_length(config: DecoderConfig, inputs: Array, positions, cache) -> int:
    """How many positions attention reads."""
    if inputs.ndim != 2 or not jnp.issubdtype(inputs.dtype, jnp.integer):
        raise ValueError(
            f"inputs must be [B, T] integers, tokens, got {inputs.dtype} {list(inputs.shape)}"
        )
    if positions is None and cache:
        raise ValueError("positions must be given beside a cache, got None")
    if positions is not None and positions.shape != inputs.shape:
        raise ValueError(
            f"positions must be {list(inputs.shape)} as inputs, got {list(positions.shape)}"
        )
    length = cache["block_0.key"].shape[-1] if cache else inputs.shape[1]
    if config.positions == "learned" and length > config.max_length:
        raise ValueError(
            f"inputs must be at most {config.max_length} tokens long, the learned positions, got "
            f"{length}"
        )
    return length


def _part(cache: Mapping[str, Array], name: str) -> dict[str, Array]:
    return {kind: cache[f"{name}.{kind}"] for kind in ("key", "value") if cache}


def _rotated(x: Array, cos: Array, sin: Array) -> Array:
    """`[B, T, H, h]`, each head's halves turned into one another."""
    one, other = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1).astype(x.dtype)


def _norm(config: DecoderConfig, dtype: Any, name: str) -> nn.Module:
    if config.norm == "rms":
        return nn.RMSNorm(config.norm_eps, dtype=dtype, name=name)
    own = config.norm == "layer"
    return nn.LayerNorm(
        config.norm_eps,
        dtype=dtype,
        use_bias=own,
        use_scale=own,
        use_fast_variance=False,
        name=name,
    )


def _dense(
    features: int, biased: bool, dtype: Any, name: str, depth: int | None = None
) -> nn.Dense:
    """A product; with `depth` one that is added to the stream, as one of two in each block."""
    scale = 1.0 if depth is None else 1 / (2 * depth)
    init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
    return nn.Dense(features, biased, dtype=dtype, kernel_init=init, name=name)
