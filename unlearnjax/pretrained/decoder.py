"""Decoders: the layouts of Hugging Face `transformers`, of its versions 4 and 5.

A folder with `config.json` and `model.safetensors`, or shards with their index: Llama 2 and 3,
Mistral, Qwen 2, 2.5 and 3, OLMo (the first) and GPT-2.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import parallel
from unlearnjax.models.decoder import Decoder, DecoderConfig
from unlearnjax.pretrained import files, mapping
from unlearnjax.pretrained.decoder_config import canonical, describe, read_config
from unlearnjax.pretrained.mapping import Family, KeyMap, Layout, Rule
from unlearnjax.types import PyTree, Variables


class Checkpoint(NamedTuple):
    """A published decoder.

    Attributes:
      config: which decoder, for `models.Decoder`.
      variables: its parameters, `{'params': ...}`.
      described: its `config.json`, for `save`.
    """

    config: DecoderConfig
    variables: Variables
    described: Mapping[str, Any]


def load(
    path: str | os.PathLike,
    shardings: Callable[[PyTree], PyTree] | None = None,
    dtype: Any = jnp.float32,
) -> Checkpoint:
    """A decoder from a folder, one tensor after another straight to where it belongs.

    Args:
      path: with `config.json` and `model.safetensors` or `model.safetensors.index.json`.
      shardings: from parameters' shapes to where they belong; default one device.
      dtype: of the parameters; files are often in bfloat16, which float32 holds exactly.

    Raises:
      ValueError: for an unknown architecture or switch, and see `mapping.load`.
      ImportError: if the library safetensors is needed and not there.
    """
    tensors = files.open_tensors(path)
    described = _described(tensors)
    config = read_config(described, str(tensors.path.parent / "config.json"))
    like = _like(config, dtype)
    if shardings is not None:
        place = lambda shape, where: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)
        like = jax.tree.map(place, like, shardings(like))
    loaded = mapping.load(tensors, like, key_map(config))
    return Checkpoint(config, {"params": loaded.params}, described)


def save(
    path: str | os.PathLike,
    params: PyTree,
    config: DecoderConfig,
    described: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> None:
    """Writes a folder that `load` and `transformers` read: `config.json` and `model.safetensors`.

    Every process calls it; the main one writes. A tokenizer's files are the caller's to copy.

    Args:
      path: of the folder, which is made if it is not there.
      params: of the plain model, see `tasks.merged`.
      config: which decoder.
      described: the `config.json` that it came with, kept but for the type; default `describe`.
      dtype: of the stored parameters; default the one they have. With that of the file they came
        from, what did not change is stored bit by bit as it was.

    Raises:
      ValueError: if `described` is of another decoder, if the folder has weights in shards, which
        would be read instead, and see `mapping.save`.
    """
    folder = Path(path)
    if (folder / "model.safetensors.index.json").exists():
        raise ValueError(f"path must be a folder without weights in shards, got {folder}")
    described = describe(config) if described is None else dict(described)
    if read_config(described, "described") != canonical(config):
        raise ValueError(f"described must be of the decoder {config}, it is of {described}")
    if dtype is not None:
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    stored = sorted({jnp.dtype(x.dtype).name for x in jax.tree.leaves(params)})
    folder.mkdir(parents=True, exist_ok=True)
    mapping.save(folder / "model.safetensors", params, key_map(config))
    for name in ("torch_dtype", "dtype"):
        if name in described and len(stored) == 1:
            described[name] = stored[0]
    if parallel.is_main_process():
        (folder / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")


def key_map(config: DecoderConfig) -> KeyMap:
    """The keys of the family that has these switches."""
    return _gpt2(config) if config.positions == "learned" else _llama(config)


def family(module: Decoder, tensors: files.Tensors, shape: tuple[int, ...]) -> Family:
    """How `module` reads those tensors, for `pretrained.load_model`.

    Raises:
      ValueError: if the `config.json` beside them is of another decoder than the module.
    """
    del shape
    file = tensors.path.parent / "config.json"
    config = canonical(module.config)
    if not file.is_file():
        note = "config: not described in a config.json beside it, taken to fit"
        return Family(key_map(config), notes=(note,))
    theirs = read_config(_described(tensors), str(file))
    for name, own, other in zip(DecoderConfig._fields, config, theirs, strict=True):
        bound = name != "max_length" or config.positions == "learned"
        if own != other and bound:
            raise ValueError(f"config.{name} must fit {file}, which has {other!r}, got {own!r}")
    return Family(key_map(config))


def _described(tensors: files.Tensors) -> dict[str, Any]:
    file = tensors.path.parent / "config.json"
    with files.readable(file):
        described = json.loads(file.read_text())
        if not isinstance(described, dict):
            raise ValueError("it must be a JSON object")
    return described


def _like(config: DecoderConfig, dtype: Any) -> PyTree:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    like = jax.eval_shape(Decoder(config).init, jax.random.key(0), tokens)["params"]
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape.shape, dtype), like)


def _llama(config: DecoderConfig) -> KeyMap:
    layer = "model.layers.{i}."
    biased = {"none": "", "qkv": "qkv", "attention": "qkvo", "all": "qkvo"}[config.bias]
    rules = []
    for name in "qkvo":
        ours, theirs = f"block_{{i}}/attention/{name}", f"{layer}self_attn.{name}_proj"
        rules += _linear(ours, theirs, name in biased)
    for name in ("gate", "up", "down"):
        rules += _linear(f"block_{{i}}/mlp/{name}", f"{layer}mlp.{name}_proj", config.bias == "all")
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            ours, theirs = f"block_{{i}}/attention/{name}/scale", f"{layer}self_attn.{name}.weight"
            rules.append(Rule(ours, theirs))
    norms = []
    if config.norm != "unscaled":
        rules.append(Rule("block_{i}/attention_norm/scale", f"{layer}input_layernorm.weight"))
        rules.append(Rule("block_{i}/mlp_norm/scale", f"{layer}post_attention_layernorm.weight"))
        norms.append(Rule("norm/scale", "model.norm.weight"))
    table = Rule("embed/embedding", "model.embed_tokens.weight")
    whole = (table, *mapping.repeated(rules, config.depth), *norms, *_head(config))
    return KeyMap(whole, prefix="model.", ignored=(r".*rotary_emb\.inv_freq", *_unread(config)))


def _gpt2(config: DecoderConfig) -> KeyMap:
    """As it was published also without the prefix, and with the causal masks as tensors."""
    layer, block = "transformer.h.{i}.", "block_{i}/"
    rules = []
    for leaf, stored in (("kernel", "weight"), ("bias", "bias")):
        fused = tuple(f"{block}attention/{name}/{leaf}" for name in "qkv")
        rules += [
            Rule(fused, f"{layer}attn.c_attn.{stored}", _FUSED),
            Rule(f"{block}attention/o/{leaf}", f"{layer}attn.c_proj.{stored}"),
            Rule(f"{block}mlp/up/{leaf}", f"{layer}mlp.c_fc.{stored}"),
            Rule(f"{block}mlp/down/{leaf}", f"{layer}mlp.c_proj.{stored}"),
        ]
    norms = []
    for leaf, stored in (("scale", "weight"), ("bias", "bias")):
        rules.append(Rule(f"{block}attention_norm/{leaf}", f"{layer}ln_1.{stored}"))
        rules.append(Rule(f"{block}mlp_norm/{leaf}", f"{layer}ln_2.{stored}"))
        norms.append(Rule(f"norm/{leaf}", f"transformer.ln_f.{stored}"))
    whole = (
        Rule("embed/embedding", "transformer.wte.weight"),
        Rule("positions/embedding", "transformer.wpe.weight"),
        *mapping.repeated(rules, config.depth),
        *norms,
        *_head(config),
    )
    masks = r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"
    return KeyMap(whole, prefix="transformer.", ignored=(masks, *_unread(config)))


# Queries, keys and values in one, outputs last.
_FUSED = Layout(
    lambda stored, *shapes: tuple(np.split(stored, 3, axis=-1)),
    lambda *ours: jnp.concatenate(ours, axis=-1),
)


def _linear(ours: str, theirs: str, biased: bool) -> list[Rule]:
    kernel = Rule(f"{ours}/kernel", f"{theirs}.weight", mapping.LINEAR)
    return [kernel, Rule(f"{ours}/bias", f"{theirs}.bias")] if biased else [kernel]


def _head(config: DecoderConfig) -> tuple[Rule, ...]:
    return () if config.tie_embeddings else (Rule("head", "lm_head.weight", mapping.LINEAR),)


def _unread(config: DecoderConfig) -> tuple[str, ...]:
    """A second copy of the table, which some files have and nobody reads."""
    return (r"lm_head\.weight",) if config.tie_embeddings else ()
