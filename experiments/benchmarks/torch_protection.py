"""Filters of classes, and a step of adversarial training, in eager PyTorch. Optional: torch."""

import numpy as np

from experiments.benchmarks import torch_models
from experiments.benchmarks.torch_reference import Call, waited_for

try:
    import torch
    from torch.nn import functional as F
except ImportError:  # the references are then left out
    torch = None


@waited_for
def by_class(images: np.ndarray, targets: np.ndarray, filters: np.ndarray) -> Call:
    """Images of a class at once, a convolution of as many groups as there are channels."""
    x, y = torch_models.tensors({"inputs": images, "targets": targets})
    kernels = torch.from_numpy(np.array(filters)).to(x.device)[:, None, None]
    reach, channels = filters.shape[-1] // 2, x.shape[1]

    def call():
        result = torch.empty_like(x)
        for number, kernel in enumerate(kernels):
            rows = torch.nonzero(y == number)[:, 0]
            kernel = kernel.expand(channels, *kernel.shape[1:])
            own = F.conv2d(x[rows], kernel, padding=reach, groups=channels)
            result[rows] = own / own.amax((1, 2, 3), keepdim=True)
        return result

    return call


@waited_for
def by_image(images: np.ndarray, targets: np.ndarray, filters: np.ndarray) -> Call:
    """One image after another, as CUDA's published code does it."""
    x, y = torch_models.tensors({"inputs": images, "targets": targets})
    kernels = torch.from_numpy(np.array(filters)).to(x.device)[:, None, None]
    reach, channels = filters.shape[-1] // 2, x.shape[1]

    def call():
        result = []
        for image, number in zip(x.split(1), y.tolist(), strict=True):
            kernel = kernels[number].expand(channels, *kernels.shape[2:])
            own = F.conv2d(image, kernel, padding=reach, groups=channels)
            result.append(own / own.max())
        return torch.cat(result)

    return call


@waited_for
def adversarial_step(net, data, *, radius: float, num_steps: int, rate: float) -> Call:
    """A step of SGD on inputs that are attacked within a ball of the maximum norm, from 0."""
    inputs, targets = torch_models.tensors(data)
    size = 1.5 * radius / num_steps

    def call():
        change = torch.zeros_like(inputs)
        for _ in range(num_steps):
            moved = (inputs + change).requires_grad_()
            loss = F.cross_entropy(net(moved), targets, reduction="sum")
            (slope,) = torch.autograd.grad(loss, moved)
            change = (change + size * slope.sign()).clamp(-radius, radius)
        loss = F.cross_entropy(net(inputs + change), targets)
        weights = list(net.parameters())
        slopes = torch.autograd.grad(loss, weights)
        return [w.detach() - rate * g for w, g in zip(weights, slopes, strict=True)]

    return call
