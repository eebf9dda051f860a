"""Vision transformers: the layouts of Hugging Face `transformers` and of Google's `vit_jax`.

`google/vit-base-patch16-224` and its kin (`ViTForImageClassification`) as safetensors, and the
archives of Steiner et al., "How to train your ViT?", TMLR 2022 (AugReg) as `.npz`. The latter were
trained with `exact_gelu=False` and `norm_eps=1e-6`. Both expect images in [-1, 1].
"""

import functools
import json
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from unlearnjax.models.vit import ViT
from unlearnjax.pretrained import mapping
from unlearnjax.pretrained.files import Tensors, readable
from unlearnjax.pretrained.mapping import Family, KeyMap, Rule
from unlearnjax.types import Array

_ATTENTION = "MultiHeadDotProductAttention_{i}"


def hugging_face(depth: int) -> KeyMap:
    """The keys of `ViTForImageClassification` with `depth` blocks.

    Without the prefix `vit.` too, as `ViTModel` writes them. Its pooler, which no classifier reads,
    is ignored.
    """
    layer = "vit.encoder.layer.{i}."
    block = [
        *_norm("LayerNorm_{even}", layer + "layernorm_before"),
        *_norm("LayerNorm_{odd}", layer + "layernorm_after"),
        *_linear("Dense_{even}", layer + "intermediate.dense"),
        *_linear("Dense_{odd}", layer + "output.dense"),
        Rule(
            f"{_ATTENTION}/out/kernel",
            layer + "attention.output.dense.weight",
            mapping.FROM_HEADS,
        ),
        Rule(f"{_ATTENTION}/out/bias", layer + "attention.output.dense.bias"),
    ]
    for name in ("query", "key", "value"):
        ours, theirs = f"{_ATTENTION}/{name}", f"{layer}attention.attention.{name}"
        block += [
            Rule(f"{ours}/kernel", f"{theirs}.weight", mapping.TO_HEADS),
            Rule(f"{ours}/bias", f"{theirs}.bias", mapping.FLAT),
        ]
    patches = "vit.embeddings.patch_embeddings.projection"
    rules = (
        Rule("cls", "vit.embeddings.cls_token"),
        Rule("positions/embedding", "vit.embeddings.position_embeddings"),
        Rule("Conv_0/kernel", f"{patches}.weight", mapping.CONVOLUTION),
        Rule("Conv_0/bias", f"{patches}.bias"),
        *mapping.repeated(block, depth),
        *_norm(f"LayerNorm_{2 * depth}", "vit.layernorm"),
        *_linear(f"Dense_{2 * depth}", "classifier"),
    )
    return KeyMap(rules, prefix="vit.", ignored=(r"(vit\.)?pooler\.dense\.(weight|bias)",))


def augreg(depth: int) -> KeyMap:
    """The keys of `vit_jax` with `depth` blocks; the arrays are as ours."""
    layer = "Transformer/encoderblock_{i}"
    same = {
        "LayerNorm_{even}": "LayerNorm_0",
        "LayerNorm_{odd}": "LayerNorm_2",
        **{
            f"{_ATTENTION}/{name}": f"MultiHeadDotProductAttention_1/{name}"
            for name in ("query", "key", "value", "out")
        },
        "Dense_{even}": "MlpBlock_3/Dense_0",
        "Dense_{odd}": "MlpBlock_3/Dense_1",
    }
    block = [
        Rule(f"{ours}/{leaf}", f"{layer}/{theirs}/{leaf}")
        for ours, theirs in same.items()
        for leaf in (("scale" if "Norm" in ours else "kernel"), "bias")
    ]
    rules = (
        Rule("cls", "cls"),
        Rule("positions/embedding", "Transformer/posembed_input/pos_embedding"),
        *(Rule(f"Conv_0/{leaf}", f"embedding/{leaf}") for leaf in ("kernel", "bias")),
        *mapping.repeated(block, depth),
        *(
            Rule(f"LayerNorm_{2 * depth}/{leaf}", f"Transformer/encoder_norm/{leaf}")
            for leaf in ("scale", "bias")
        ),
        *(Rule(f"Dense_{2 * depth}/{leaf}", f"head/{leaf}") for leaf in ("kernel", "bias")),
    )
    return KeyMap(rules)


def family(module: ViT, tensors: Tensors, image: tuple[int, ...]) -> Family:
    """How `module` reads those tensors for images `[H, W, C]`.

    A classifier of other classes is replaced. Positions of another grid are interpolated: for files
    of `transformers` bicubically, as it does, for those of `vit_jax` bilinearly with corners kept.

    What a file of `transformers` has no `config.json` to describe is taken on trust, and noted.

    Raises:
      ValueError: if `module` is another model than the file is of, where shapes would not show it:
        than the `config.json` beside it describes, or than all archives of `vit_jax` are of.
    """
    archive = any(name.startswith("Transformer/") for name in tensors.shapes)
    if archive and (module.exact_gelu or module.norm_eps != 1e-6):
        raise ValueError(
            f"weights {tensors.path} were trained with exact_gelu=False and norm_eps=1e-6, the "
            f"model has exact_gelu={module.exact_gelu} and norm_eps={module.norm_eps}"
        )
    notes = () if archive else _validate_described(module, tensors)
    key_map = (augreg if archive else hugging_face)(module.depth)
    height, width = (module.image_size or side for side in image[:2])
    grid = (height // module.patch_size, width // module.patch_size)
    matrix = corners_kept if archive else bicubic
    resize = {"positions/embedding": functools.partial(resized, grid=grid, matrix=matrix)}
    head = tuple(f"Dense_{2 * module.depth}/{leaf}" for leaf in ("kernel", "bias"))
    return Family(key_map, head, resize, notes)


def resized(
    stored: Array,
    shape: tuple[int, ...],
    grid: tuple[int, int],
    matrix: Callable[[int, int], np.ndarray],
) -> Array:
    """Position embeddings interpolated to another grid; the class token's stays.

    Args:
      stored: `[1, 1 + s * s, D]`.
      shape: `(1, 1 + h * w, D)`.
      grid: `(h, w)`; a grid equal to the stored one returns `stored` itself.
      matrix: `(new, old) -> [new, old]`, the weights along one side: `bicubic`, `corners_kept`.

    Raises:
      ValueError: if the stored grid is not square, or other than the grid is wrong.
    """
    side = math.isqrt(max(stored.shape[1] - 1, 0)) if stored.ndim == 3 else 0
    if side == 0 or stored.shape != (1, 1 + side * side, shape[-1]):
        raise ValueError(f"must be [1, 1 + a square, {shape[-1]}]")
    if grid == (side, side):
        return stored
    tokens = jnp.asarray(stored, jnp.float32)
    old = tokens[0, 1:].reshape(side, side, -1)
    rows, columns = (matrix(new, side) for new in grid)
    new = jnp.einsum("ia,jb,abd->ijd", rows, columns, old, precision="highest")
    return jnp.concatenate([tokens[:, :1], new.reshape(1, -1, shape[-1])], axis=1)


def bicubic(new: int, old: int) -> np.ndarray:
    """Weights `[new, old]` of PyTorch's bicubic interpolation: centres aligned, A = -0.75."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
    distance = np.abs(at[:, None] - taps)
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
    return _summed(taps, np.where(distance <= 1, near, far), old)


def corners_kept(new: int, old: int) -> np.ndarray:
    """Weights `[new, old]` of linear interpolation that leaves the corners where they are."""
    at = np.arange(new) * (old - 1) / max(new - 1, 1)
    taps = np.floor(at).astype(int)[:, None] + np.arange(2)
    return _summed(taps, 1 - np.abs(at[:, None] - taps), old)


def _summed(taps: np.ndarray, weights: np.ndarray, old: int) -> np.ndarray:
    """A matrix of weights at taps, those outside at the border."""
    matrix = np.zeros((len(taps), old), np.float32)
    np.add.at(matrix, (np.arange(len(taps))[:, None], np.clip(taps, 0, old - 1)), weights)
    return matrix


def _validate_described(module: ViT, tensors: Tensors) -> tuple[str, ...]:
    """Raises `ValueError` for what is described otherwise; a note of what is not described."""
    file = tensors.path.parent / "config.json"
    described = {}
    if file.is_file():
        with readable(file):
            described = json.loads(file.read_text())
            if not isinstance(described, dict):
                raise ValueError("it must be a JSON object")
    ours = {
        "num_attention_heads": ("num_heads", (module.num_heads,)),
        "layer_norm_eps": ("norm_eps", (module.norm_eps,)),
        "hidden_act": (
            "exact_gelu",
            ("gelu",) if module.exact_gelu else ("gelu_new", "gelu_pytorch_tanh"),
        ),
    }
    for field, (option, values) in ours.items():
        if field in described and described[field] not in values:
            raise ValueError(
                f"{option} must fit {file}, which has {field} {described[field]!r}; "
                f"the model's is {values[0]!r}"
            )
    unknown = [option for field, (option, _) in ours.items() if field not in described]
    if not unknown:
        return ()
    return (f"{', '.join(unknown)}: not described in a config.json beside it, taken to fit",)


def _norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias")


def _linear(ours: str, theirs: str) -> tuple[Rule, ...]:
    kernel = Rule(f"{ours}/kernel", f"{theirs}.weight", mapping.LINEAR)
    return kernel, Rule(f"{ours}/bias", f"{theirs}.bias")
