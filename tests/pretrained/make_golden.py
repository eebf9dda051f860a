"""Writes the golden files beside it: tiny random models by PyTorch `transformers`.

python tests/pretrained/make_golden.py  (needs torch, transformers and safetensors)

Every parameter is random, biases and norms too, so that a forgotten one shows.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / "golden"
SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}


def vit(seed=0, **options):
    """A random model with the published options: 3 classes, images of 8x8, patches of 4."""
    config = transformers.ViTConfig(
        **SHAPE, intermediate_size=96, image_size=8, patch_size=4, num_labels=3, **options
    )
    torch.manual_seed(seed)
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "layernorm" in name and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + (1.0 if norm else 0.0))
    return model


def outputs(model, images, **options):
    """Logits [B, C] for images [B, H, W, C], as float32 arrays."""
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return model(pixels, **options).logits.numpy()


if __name__ == "__main__":
    model = vit()
    model.save_pretrained(FOLDER / "vit")
    rng = np.random.default_rng(0)
    small = rng.standard_normal((4, 8, 8, 3)).astype(np.float32)
    large = rng.standard_normal((2, 12, 16, 3)).astype(np.float32)
    np.savez(
        FOLDER / "vit" / "expected.npz",
        small=small,
        large=large,
        small_logits=outputs(model, small),
        large_logits=outputs(model, large, interpolate_pos_encoding=True),
    )
