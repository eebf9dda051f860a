"""Denoising networks in eager PyTorch, trained and sampled as its users do.

Optional: torch. Submodules have the names of those of `unlearnjax.models`, whose parameters are
taken over by name. tests/experiments/torch_diffusion_test.py holds all of it against ours.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks import torch_models
from experiments.benchmarks.torch_reference import Call, waited_for
from unlearnjax import diffusion

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:  # the references are then left out
    torch = None


def network(
    model: str, channels: int, num_classes: int, variables: Mapping | None = None, **options: Any
) -> "nn.Module":
    """'dit' or 'unet' on the device, in evaluation mode, with the parameters of the Flax model."""
    made = {"dit": DiT, "unet": UNet}[model](channels, num_classes, **options)
    if variables is not None:
        torch_models.load_named(made, variables)
    layout = torch.channels_last if torch_models.device().type == "cuda" else torch.preserve_format
    return made.to(torch_models.device(), memory_format=layout).eval()


@waited_for
def training_step(
    net: "nn.Module",
    process: diffusion.Process,
    data: Mapping,
    rate: float,
    dropout: float = 0.1,
    dtype: str = "float32",
) -> Call:
    """One step of Adam on a batch, with times, noise and dropped conditions drawn anew."""
    student = copy.deepcopy(net).train()
    optimizer = torch.optim.Adam(student.parameters(), rate)
    x0, condition = images(data["inputs"]), labels(data["condition"])
    shares = alphas(process)

    def call():
        time = torch.randint(0, len(shares), (len(x0),), device=x0.device)
        noise = torch.randn_like(x0)
        dropped = torch.rand(len(x0), device=x0.device) < dropout
        told = torch.where(dropped, process.null, condition)
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            error = loss(student, process, shares, x0, noise, time, told)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        return error

    return call


def loss(net: "nn.Module", process: diffusion.Process, shares, x0, noise, time, condition):
    """The mean squared error of the prediction."""
    share = shares[time].reshape(-1, 1, 1, 1)
    a, s = share.sqrt(), (1 - share).sqrt()
    target = a * noise - s * x0 if process.prediction == "v" else noise
    return F.mse_loss(net(a * x0 + s * noise, time, condition).float(), target)


@waited_for
def guided_ddim(
    net: "nn.Module",
    process: diffusion.Process,
    start,
    condition,
    num_steps: int,
    scale: float,
    batch_size: int,
    dtype: str = "float32",
) -> Call:
    """Images of noise `[N, H, W, C]`, chunk by chunk; both conditions of a step in one pass."""
    start, condition = images(start), labels(condition)
    shares = alphas(process)
    times = np.round(np.arange(num_steps, 0, -1) * len(shares) / num_steps).astype(int) - 1

    def chunk(x, condition):
        told = torch.cat([condition, torch.full_like(condition, process.null)])
        for t, after in zip(times, [*times[1:], None], strict=True):
            share, left = shares[t], shares[after] if after is not None else shares.new_ones(())
            a, s = share.sqrt(), (1 - share).sqrt()
            time = torch.full((2 * len(x),), int(t), device=x.device)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
                said = net(torch.cat([x, x]), time, told).float()
            with_it, without = said.chunk(2)
            said = without + scale * (with_it - without)
            x0 = a * x - s * said if process.prediction == "v" else (x - s * said) / a
            if process.clip is not None:
                x0 = x0.clamp(-process.clip, process.clip)
            x = left.sqrt() * x0 + (1 - left).sqrt() * (x - a * x0) / s
        return x

    def call():
        with torch.no_grad():
            parts = zip(start.split(batch_size), condition.split(batch_size), strict=True)
            return torch.cat([chunk(*part) for part in parts])

    return call


def images(array) -> "torch.Tensor":
    """Channels first, on the device."""
    tensor = torch.from_numpy(np.asarray(array).transpose(0, 3, 1, 2).copy())
    return tensor.to(torch_models.device())


def labels(array) -> "torch.Tensor":
    """Whole numbers on the device."""
    return torch.from_numpy(np.array(array)).long().to(torch_models.device())


def alphas(process: diffusion.Process) -> "torch.Tensor":
    """The shares of the signal, on the device."""
    shares = np.asarray(process.schedule.alphas_bar, np.float32)
    return torch.from_numpy(shares).to(torch_models.device())


def waves(positions, width: int):
    """Sines and cosines of positions."""
    half = width // 2
    steps = torch.arange(half, device=positions.device) / (half - 1)
    angles = positions.float()[:, None] * torch.exp(-math.log(10_000) * steps)
    return torch.cat([angles.sin(), angles.cos()], 1)


if torch is not None:

    class DiT(nn.Module):
        """`models.DiT`."""

        def __init__(
            self,
            channels: int,
            num_classes: int,
            patch_size: int = 2,
            width: int = 96,
            depth: int = 4,
            num_heads: int = 4,
        ):
            super().__init__()
            self.side, self.width, numbers = patch_size, width, patch_size**2 * channels
            self.patches = nn.Linear(numbers, width)
            self.time_in, self.time_out = nn.Linear(width, width), nn.Linear(width, width)
            self.classes = nn.ModuleDict({"rows": nn.Embedding(num_classes + 1, width)})
            self.blocks = [f"block_{i}" for i in range(depth)]
            for name in self.blocks:
                self.add_module(name, _Block(width, num_heads))
            self.modulation = _zero(nn.Linear(width, 2 * width))
            self.pixels = _zero(nn.Linear(width, numbers))

        def forward(self, noised, time, condition):
            batch, channels, height, width = noised.shape
            side, rows, cols = self.side, height // self.side, width // self.side
            x = noised.reshape(batch, channels, rows, side, cols, side)
            x = self.patches(x.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * cols, -1))
            x = x + self.positions(rows, cols, x.device)
            told = self.time_out(F.silu(self.time_in(waves(time, self.width))))
            told = F.silu(told + self.classes["rows"](condition))
            for name in self.blocks:
                x = getattr(self, name)(x, told)
            shift, scale = self.modulation(told)[:, None].chunk(2, -1)
            x = self.pixels(_modulated(x, shift, scale))
            x = x.reshape(batch, rows, cols, side, side, channels).permute(0, 5, 1, 3, 2, 4)
            return x.reshape(noised.shape)

        def positions(self, rows, cols, device):
            y, x = torch.arange(rows, device=device), torch.arange(cols, device=device)
            of = lambda p: waves(p, self.width // 2)
            return torch.cat([of(y).repeat_interleave(cols, 0), of(x).repeat(rows, 1)], 1)

    class _Block(nn.Module):
        def __init__(self, width: int, num_heads: int):
            super().__init__()
            self.modulation = _zero(nn.Linear(width, 6 * width))
            self.attention = _Attention(width, num_heads)
            self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x, told):
            parts = self.modulation(told)[:, None].chunk(6, -1)
            x = x + parts[2] * self.attention(_modulated(x, *parts[:2]))
            hidden = F.gelu(self.mlp_in(_modulated(x, *parts[3:5])), approximate="tanh")
            return x + parts[5] * self.mlp_out(hidden)

    class _Attention(nn.Module):
        def __init__(self, width: int, num_heads: int):
            super().__init__()
            self.num_heads = num_heads
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x):
            batch, length, width = x.shape
            heads = self.qkv(x).reshape(batch, length, 3, self.num_heads, -1)
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(query, key, value)
            return self.out(y.transpose(1, 2).reshape(batch, length, width))

    def _modulated(x, shift, scale):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def _zero(layer):
        nn.init.zeros_(layer.weight)
        return layer

    class UNet(nn.Module):
        """`models.UNet`."""

        def __init__(
            self,
            channels: int,
            num_classes: int,
            width: int = 128,
            multiples: Sequence[int] = (1, 2, 2, 2),
            num_blocks: int = 2,
            attention: Sequence[int] = (16,),
            dropout: float = 0.1,
            side: int = 32,
        ):
            super().__init__()
            self.width, groups = width, min(32, width)
            self.classes = nn.ModuleDict({"rows": nn.Embedding(num_classes + 1, width)})
            for name in ("time", "class"):
                dense = {"in": nn.Linear(width, 4 * width), "out": nn.Linear(4 * width, 4 * width)}
                self.add_module(name, nn.ModuleDict(dense))
            self.add_module("in", nn.Conv2d(channels, width, 3, padding=1))
            self.plan = []  # (what, name): block, attention, halve, double, carry, join
            carried, now = [width], width

            def block(name, before, after):
                self.add_module(name, _Residual(before, after, 8 * width, groups, dropout))
                self.plan.append(("block", name))
                if side in attention or name == "middle_0":
                    own = "middle_attention" if name == "middle_0" else f"{name}_attention"
                    self.add_module(own, _Mixing(after, groups))
                    self.plan.append(("attention", own))
                return after

            for level, multiple in enumerate(multiples):
                for i in range(num_blocks):
                    now = block(f"down_{level}_{i}", now, multiple * width)
                    self.plan.append(("carry", ""))
                    carried.append(now)
                if level < len(multiples) - 1:
                    self.add_module(f"down_{level}", nn.Conv2d(now, now, 3, 2))
                    self.plan += [("halve", f"down_{level}"), ("carry", "")]
                    carried.append(now)
                    side //= 2
            own_side, side = side, -1  # attention in the middle follows its first block alone
            now = block("middle_1", block("middle_0", now, now), now)
            side = own_side
            for level, multiple in reversed(list(enumerate(multiples))):
                for i in range(num_blocks + 1):
                    self.plan.append(("join", ""))
                    now = block(f"up_{level}_{i}", now + carried.pop(), multiple * width)
                if level:
                    self.add_module(f"up_{level}", nn.Conv2d(now, now, 3, padding=1))
                    self.plan.append(("double", f"up_{level}"))
                    side *= 2
            self.out_norm = nn.GroupNorm(groups, now, 1e-6)
            self.out = _zero(nn.Conv2d(now, channels, 3, padding=1))

        def forward(self, noised, time, condition):
            def of(name, x):
                mlp = self.get_submodule(name)
                return mlp["out"](F.silu(mlp["in"](x)))

            of_class = of("class", self.classes["rows"](condition))
            told = F.silu(torch.cat([of("time", waves(time, self.width)), of_class], 1))
            x = self.get_submodule("in")(noised)
            carried = [x]
            for what, name in self.plan:
                layer = self.get_submodule(name)
                if what == "block":
                    x = layer(x, told)
                elif what == "attention":
                    x = layer(x)
                elif what == "halve":
                    x = layer(F.pad(x, (0, 1, 0, 1)))
                elif what == "double":
                    x = layer(F.interpolate(x, scale_factor=2.0))
                elif what == "carry":
                    carried.append(x)
                else:
                    x = torch.cat([x, carried.pop()], 1)
            return self.out(F.silu(self.out_norm(x)))

    class _Residual(nn.Module):
        def __init__(self, before: int, after: int, told: int, groups: int, dropout: float):
            super().__init__()
            self.norm_0, self.norm_1 = (nn.GroupNorm(groups, n, 1e-6) for n in (before, after))
            self.conv_0 = nn.Conv2d(before, after, 3, padding=1)
            self.conv_1 = _zero(nn.Conv2d(after, after, 3, padding=1))
            self.told, self.dropout = nn.Linear(told, after), nn.Dropout(dropout)
            self.shortcut = nn.Linear(before, after) if before != after else None

        def forward(self, inputs, told):
            x = self.conv_0(F.silu(self.norm_0(inputs))) + self.told(told)[:, :, None, None]
            x = self.conv_1(self.dropout(F.silu(self.norm_1(x))))
            if self.shortcut is not None:
                inputs = self.shortcut(inputs.movedim(1, -1)).movedim(-1, 1)
            return inputs + x

    class _Mixing(nn.Module):
        def __init__(self, channels: int, groups: int):
            super().__init__()
            self.norm = nn.GroupNorm(groups, channels, 1e-6)
            self.qkv = nn.Linear(channels, 3 * channels)
            self.out = _zero(nn.Linear(channels, channels))

        def forward(self, inputs):
            x = self.norm(inputs).flatten(2).transpose(1, 2)[:, None]
            x = F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1))
            return inputs + self.out(x)[:, 0].transpose(1, 2).reshape(inputs.shape)
