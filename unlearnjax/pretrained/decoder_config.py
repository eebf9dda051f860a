"""What the `config.json` of a published decoder means, as `transformers` 4 and 5 write it."""

from collections.abc import Mapping
from typing import Any

from unlearnjax import checks
from unlearnjax.models.decoder import DecoderConfig, RopeScaling, validate

# By `model_type`, what becomes of it where its config.json says nothing.
FAMILIES = {
    "llama": {"norm_eps": 1e-6, "tie_embeddings": False},
    "mistral": {"norm_eps": 1e-6, "tie_embeddings": False},
    "qwen2": {"norm_eps": 1e-6, "tie_embeddings": False, "bias": "qkv"},
    "qwen3": {"norm_eps": 1e-6, "tie_embeddings": False, "qk_norm": True, "head_dim": 128},
    "olmo": {"norm_eps": 1e-5, "tie_embeddings": False, "norm": "unscaled"},
    "gpt2": {
        "norm_eps": 1e-5,
        "tie_embeddings": True,
        "norm": "layer",
        "positions": "learned",
        "gated": False,
        "bias": "all",
    },
}
# Switches that `Decoder` does not have, with the values that leave them off.
_OFF = {
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1.0),
    "hidden_act": ("silu",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "add_cross_attention": (False,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
}
_FIELDS_GPT2 = {
    "vocab_size": "vocab_size",
    "width": "n_embd",
    "depth": "n_layer",
    "num_heads": "n_head",
    "max_length": "n_positions",
}
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo": "OlmoForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def read_config(described: Mapping[str, Any], name: str = "config.json") -> DecoderConfig:
    """The decoder that a `config.json` describes.

    Args:
      described: its content, as `transformers` 4 or 5 writes it.
      name: of the file, for errors.

    Raises:
      ValueError: for an unknown architecture, a switch that there is not here, a missing field.
    """
    kind = described.get("model_type")
    checks.one_of(**{f"model_type in {name}": (kind, tuple(FAMILIES))})
    for field, values in _OFF.items():
        _require(described, field, values, name)
    wanted = _FIELDS_GPT2 if kind == "gpt2" else _FIELDS
    missing = [field for field in wanted.values() if described.get(field) is None]
    if missing:
        raise ValueError(f"{name} must have {missing[0]!r}, it has {sorted(described)}")
    found = {**FAMILIES[kind], **{own: described[field] for own, field in wanted.items()}}

    def given(**fields: str) -> None:
        there = {own: described.get(field) for own, field in fields.items()}
        found.update({own: value for own, value in there.items() if value is not None})

    given(tie_embeddings="tie_word_embeddings")
    if kind == "gpt2":
        given(norm_eps="layer_norm_epsilon")
        found["mlp_width"] = described.get("n_inner") or 4 * found["width"]
    else:
        given(num_kv_heads="num_key_value_heads", head_dim="head_dim")
        given(max_length="max_position_embeddings")
        found |= _rope(described, name)
        found["window"] = _window(described, name, found["depth"])
    if kind == "olmo":
        given(clip_qkv="clip_qkv")
    elif kind != "gpt2":
        given(norm_eps="rms_norm_eps")
    if kind in ("llama", "qwen3", "olmo") and described.get("attention_bias"):
        found["bias"] = "all" if kind == "llama" and described.get("mlp_bias") else "attention"
    elif kind == "llama":
        _require(described, "mlp_bias", (None, False), f"{name} without attention_bias")
    config = canonical(DecoderConfig(**found))
    validate(config)
    return config


def describe(config: DecoderConfig) -> dict[str, Any]:
    """A `config.json` of a decoder, in the words of both versions of `transformers`.

    Raises:
      ValueError: for a mixture of switches that no family has.
    """
    common = {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tie_embeddings}
    common["torch_dtype"] = common["dtype"] = "float32"
    if config.positions == "learned":
        fields = {own: getattr(config, ours) for ours, own in _FIELDS_GPT2.items()}
        fields |= {"n_inner": config.mlp_width, "layer_norm_epsilon": config.norm_eps}
        kinds, fields["activation_function"] = ("gpt2",), "gelu_new"
    else:
        scaling = config.rope_scaling
        rope = {"rope_type": "default"}
        if scaling is not None:
            rope = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high,
                "original_max_position_embeddings": scaling.length,
            }
        fields = {own: getattr(config, ours) for ours, own in _FIELDS.items()} | {
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_width,
            "hidden_act": "silu",
            "max_position_embeddings": config.max_length,
            "rms_norm_eps": config.norm_eps,
            "attention_bias": config.bias in ("attention", "all"),
            "mlp_bias": config.bias == "all",
            "rope_theta": config.rope_base,
            "rope_scaling": None if scaling is None else rope,
            "rope_parameters": {"rope_theta": config.rope_base, **rope},
            "clip_qkv": config.clip_qkv,
            "sliding_window": config.window,
        }
        kinds = ("llama", "mistral", "qwen2", "qwen3", "olmo")
    for kind in kinds:
        described = {"model_type": kind, "architectures": [_CLASSES[kind]], **common, **fields}
        if read_config(described) == canonical(config):
            return described
    raise ValueError(f"config must be of one of {list(FAMILIES)} to be stored, got {config}")


def canonical(config: DecoderConfig) -> DecoderConfig:
    """The same decoder, with what follows from other fields filled in."""
    return config._replace(num_kv_heads=config.kv_heads, head_dim=config.head_width)


def _require(described: Mapping[str, Any], field: str, values: tuple, name: str) -> None:
    """Refuses a switch that there is not here."""
    if field in described and described[field] not in values:
        raise ValueError(
            f"{field} must be {' or '.join(map(str, values))} in {name}, the decoder has no "
            f"other, got {described[field]!r}"
        )


def _rope(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Of `rope_theta` and `rope_scaling` (version 4), or of `rope_parameters` (version 5)."""
    own = {**(described.get("rope_scaling") or {}), **(described.get("rope_parameters") or {})}
    _require(own, "partial_rotary_factor", _OFF["partial_rotary_factor"], name)
    if any(isinstance(value, dict) for value in own.values()):
        raise ValueError(f"rope_parameters must be those of all layers in {name}, got {own}")
    found = {"rope_base": float(own.get("rope_theta", described.get("rope_theta", 10_000.0)))}
    kind = own.get("rope_type", own.get("type", "default"))
    _require({"rope_type": kind}, "rope_type", ("default", "llama3"), name)
    if kind == "llama3":
        fields = ("factor", "low_freq_factor", "high_freq_factor")
        fields = (*fields, "original_max_position_embeddings")
        missing = [field for field in fields if field not in own]
        if missing:
            raise ValueError(f"rope_type llama3 must have {missing[0]!r} in {name}, it has {own}")
        found["rope_scaling"] = RopeScaling(*(own[field] for field in fields))
    return found


def _window(described: Mapping[str, Any], name: str, depth: int) -> int | None:
    """How far attention reaches, which must be equally far in all layers."""
    kind, window = described["model_type"], described.get("sliding_window", 4096)
    if kind == "mistral":
        return window
    if kind not in ("qwen2", "qwen3") or not described.get("use_sliding_window") or not window:
        return None
    full = described.get("max_window_layers", 28)
    ours = ["full_attention" if i < full else "sliding_attention" for i in range(depth)]
    layers = set(described.get("layer_types") or ours)
    if len(layers) > 1:
        raise ValueError(f"sliding_window must be of all layers or of none in {name}, got {layers}")
    return window if layers == {"sliding_attention"} else None
