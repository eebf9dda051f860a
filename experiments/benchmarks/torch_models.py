"""The networks of `unlearnjax.models` in eager PyTorch, and what they are computed on. Optional.

On an accelerator they are what a careful user of PyTorch would take: channels last, kernels of
cuDNN chosen by trial, and products as precise as jax's.
"""

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:  # the references are then left out
    torch = None

KNOWN = ("mlp", "convnet", "resnet18")
# What jax calls full precision; its default on a GPU rounds float32 to TF32 before multiplying.
_FULL = ("float32", "highest")


def available() -> bool:
    """Whether torch can be imported, and computes on the kind of device that jax does."""
    return torch is not None and (jax.default_backend() == "cpu" or torch.cuda.is_available())


def version() -> str:
    """Of torch, and what it computes on."""
    if torch is None:
        return "not installed"
    if device().type == "cuda":
        return f"{torch.__version__}, {torch.cuda.get_device_name()}"
    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def device() -> "torch.device":
    """The GPU where jax has one and torch too, else the CPU."""
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def configure() -> None:
    """Fair terms on a GPU: TF32 where jax takes it, the fastest kernels of cuDNN."""
    if torch is None or device().type != "cuda":
        return
    full = jax.config.jax_default_matmul_precision in _FULL
    torch.set_float32_matmul_precision("highest" if full else "high")
    torch.backends.cudnn.allow_tf32 = not full
    torch.backends.cudnn.benchmark = True


def synchronize() -> None:
    """Waits until what was called is computed."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def peak_bytes(reset: bool = False) -> int:
    """Most bytes of the GPU that tensors have taken since the last reset; `reset` is one, now."""
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated()


def release() -> None:
    """Gives back the memory that nothing refers to."""
    gc.collect()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def network(
    model: str, shape: Sequence[int], variables: Mapping | None = None, **options: Any
) -> "nn.Module":
    """A model of `KNOWN` for images of `shape` (HWC), in evaluation mode, on `device()`.

    Args:
      variables: of the Flax model, to be taken over; otherwise fresh ones.
      options: of the Flax model: `hidden` of 'mlp', `channels` and `hidden` of 'convnet',
        `stage_sizes` and `width` of 'resnet18'.
    """
    height, width, channels = shape
    if model == "mlp":
        sizes = [height * width * channels, *options.get("hidden", (256, 256))]
        layers = [nn.Flatten()]
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(a, b), nn.ReLU()]
        result = nn.Sequential(*layers, nn.Linear(sizes[-1], 10))
    elif model == "resnet18":
        result = ResNet(channels, **options)
    else:
        layers, hidden = [], options.get("hidden", 128)
        for after in options.get("channels", (32, 64)):
            layers += [nn.Conv2d(channels, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, width = after, height // 2, width // 2
        layers += [nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU()]
        result = nn.Sequential(*layers, nn.Linear(hidden, 10))
    if variables is not None and model == "resnet18":
        load_named(result, variables)
    elif variables is not None:
        load(result, variables, (channels, height, width))
    return result.to(device(), memory_format=_layout()).eval()


def load(net: "nn.Sequential", variables, flattened: Sequence[int]) -> None:
    """Takes over the parameters of the Flax model; channels come first here."""
    flat = [np.asarray(x) for x in jax.tree.leaves(variables["params"])]  # bias, kernel, bias, ...
    layers = [m for m in net if isinstance(m, nn.Linear | nn.Conv2d)]
    convolutional = any(isinstance(m, nn.Conv2d) for m in net)
    first_dense = True
    with torch.no_grad():
        for layer, bias, kernel in zip(layers, flat[::2], flat[1::2], strict=True):
            if kernel.ndim == 4:
                kernel = kernel.transpose(3, 2, 0, 1)
            else:
                if convolutional and first_dense:
                    c, h, w = flattened
                    kernel = (
                        kernel.reshape(h, w, c, -1).transpose(2, 0, 1, 3).reshape(c * h * w, -1)
                    )
                first_dense, kernel = False, kernel.T
            layer.weight.copy_(torch.from_numpy(kernel.copy()))
            layer.bias.copy_(torch.from_numpy(bias.copy()))


def load_named(net: "nn.Module", variables) -> None:
    """Takes over what has the same name in Flax."""

    def flax(collection, name, leaf):
        for part in name.split("."):
            collection = collection[part]
        return np.array(collection[leaf])

    params = variables["params"]
    with torch.no_grad():
        for name, layer in net.named_modules():
            if isinstance(layer, nn.Conv2d):
                kernel = torch.from_numpy(flax(params, name, "kernel"))
                layer.weight.copy_(kernel.permute(3, 2, 0, 1))
                if layer.bias is not None:
                    layer.bias.copy_(torch.from_numpy(flax(params, name, "bias")))
            elif isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.from_numpy(flax(params, name, "kernel")).T)
                layer.bias.copy_(torch.from_numpy(flax(params, name, "bias")))
            elif isinstance(layer, nn.Embedding):
                layer.weight.copy_(torch.from_numpy(flax(params, name, "embedding")))
            elif isinstance(layer, nn.GroupNorm):
                layer.weight.copy_(torch.from_numpy(flax(params, name, "scale")))
                layer.bias.copy_(torch.from_numpy(flax(params, name, "bias")))
            elif isinstance(layer, nn.BatchNorm2d):
                layer.weight.copy_(torch.from_numpy(flax(params, name, "scale")))
                layer.bias.copy_(torch.from_numpy(flax(params, name, "bias")))
                statistics = variables.get("batch_stats")
                if statistics is not None:
                    layer.running_mean.copy_(torch.from_numpy(flax(statistics, name, "mean")))
                    layer.running_var.copy_(torch.from_numpy(flax(statistics, name, "var")))


def tensors(data) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Images, channels first, and labels, on `device()`."""
    inputs = torch.from_numpy(np.asarray(data["inputs"]).transpose(0, 3, 1, 2).copy())
    targets = torch.from_numpy(np.array(data["targets"])).long()
    return inputs.to(device(), memory_format=_layout()), targets.to(device())


def _layout() -> "torch.memory_format":
    on_gpu = device().type == "cuda"
    return torch.channels_last if on_gpu else torch.preserve_format


if torch is not None:

    class ResNet(nn.Module):
        """`models.ResNet` with batch norm; submodules have the names that they have there."""

        def __init__(self, channels: int, stage_sizes=(2, 2, 2, 2), width: int = 64):
            super().__init__()
            self.Conv_0 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self.BatchNorm_0 = nn.BatchNorm2d(width)
            self.blocks = []
            before = width
            for stage, num_blocks in enumerate(stage_sizes):
                for i in range(num_blocks):
                    after, name = width * 2**stage, f"_Block_{len(self.blocks)}"
                    self.add_module(name, Block(before, after, 2 if stage > 0 and i == 0 else 1))
                    self.blocks.append(name)
                    before = after
            self.Dense_0 = nn.Linear(before, 10)

        def forward(self, x):
            x = F.relu(self.BatchNorm_0(self.Conv_0(x)))
            for name in self.blocks:
                x = getattr(self, name)(x)
            return self.Dense_0(x.mean((2, 3)))

    class Block(nn.Module):
        """Two 3x3 convolutions and a shortcut.

        Where they stride, Flax pads the last border alone, which takes PyTorch a copy.
        """

        def __init__(self, before: int, after: int, stride: int):
            super().__init__()
            self.pads = stride != 1
            padding = 0 if self.pads else 1
            self.Conv_0 = nn.Conv2d(before, after, 3, stride, padding, bias=False)
            self.BatchNorm_0 = nn.BatchNorm2d(after)
            self.Conv_1 = nn.Conv2d(after, after, 3, padding=1, bias=False)
            self.BatchNorm_1 = nn.BatchNorm2d(after)
            nn.init.zeros_(self.BatchNorm_1.weight)  # each block starts as the identity
            self.projects = before != after or stride != 1
            if self.projects:
                self.Conv_2 = nn.Conv2d(before, after, 1, stride, bias=False)
                self.BatchNorm_2 = nn.BatchNorm2d(after)

        def forward(self, inputs):
            x = F.pad(inputs, (0, 1, 0, 1)) if self.pads else inputs
            x = F.relu(self.BatchNorm_0(self.Conv_0(x)))
            x = self.BatchNorm_1(self.Conv_1(x))
            shortcut = self.BatchNorm_2(self.Conv_2(inputs)) if self.projects else inputs
            return F.relu(x + shortcut)
