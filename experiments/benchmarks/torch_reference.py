"""The same mathematics in eager PyTorch, written as its users write it. Optional: torch.

Every function returns a call without arguments that computes, from the same data and on the same
kind of device, what ours does, and waits for it; tests/experiments/torch_reference_test.py holds
the results against ours where torch is installed.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks import torch_models

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:  # the references are then left out
    torch = None

Call = Callable[[], object]


def waited_for(build: Callable[..., Call]) -> Callable[..., Call]:
    """`build`, whose calls return when the device has computed what they ask of it."""

    @functools.wraps(build)
    def built(*args: Any, **options: Any) -> Call:
        call = build(*args, **options)

        def waited():
            result = call()
            torch_models.synchronize()
            return result

        return waited

    return built


@waited_for
def epoch(net: "nn.Module", data, batch_size: int, rate: float, dtype: str = "float32") -> Call:
    """One training epoch of SGD; in 'bfloat16' by autocast, with parameters in float32."""
    inputs, targets = torch_models.tensors(data)

    def call():
        student = _student(net)
        optimizer = torch.optim.SGD(student.parameters(), rate)
        for rows in torch.randperm(len(inputs), device=inputs.device).split(batch_size):
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = F.cross_entropy(student(inputs[rows]), targets[rows])
            _step(optimizer, loss)
        return student

    return call


@waited_for
def fisher_exact(net: "nn.Module", data) -> Call:
    """Squared gradients one example at a time: eager torch's fastest way to the exact ones."""
    inputs, targets = torch_models.tensors(data)

    def call():
        total = [torch.zeros_like(p) for p in net.parameters()]
        for i in range(len(inputs)):
            loss = F.cross_entropy(net(inputs[i : i + 1]), targets[i : i + 1])
            for sum_, g in zip(total, torch.autograd.grad(loss, net.parameters()), strict=True):
                sum_.addcmul_(g, g)
        return [t / len(inputs) for t in total]

    return call


@waited_for
def fisher_vmap(net: "nn.Module", data, batch_size: int = 100) -> Call:
    """The exact ones by `torch.func`."""
    inputs, targets = torch_models.tensors(data)
    params = dict(net.named_parameters())

    def loss(params, x, y):
        return F.cross_entropy(torch.func.functional_call(net, params, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))

    def call():
        total = {k: torch.zeros_like(p) for k, p in params.items()}
        for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            for name, g in each(params, x, y).items():
                total[name] += (g.detach() ** 2).sum(0)
        return [t / len(inputs) for t in total.values()]

    return call


@waited_for
def fisher_batch(net: "nn.Module", data, batch_size: int) -> Call:
    """Squares of batch-mean gradients, as the published SSD code takes them."""
    inputs, targets = torch_models.tensors(data)

    def call():
        total = [torch.zeros_like(p) for p in net.parameters()]
        parts = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
        for x, y in parts:
            loss = F.cross_entropy(net(x), y)
            for sum_, g in zip(total, torch.autograd.grad(loss, net.parameters()), strict=True):
                sum_.addcmul_(g, g)
        return [t / len(parts) for t in total]

    return call


@waited_for
def ssd(net: "nn.Module", train, forget, batch_size: int, alpha: float, dampening: float) -> Call:
    """Selective synaptic dampening from beginning to end, with the inexact importances."""
    of_train = fisher_batch(net, train, batch_size)
    of_forget = fisher_batch(net, forget, batch_size)

    def call():
        damped = copy.deepcopy(net)
        importances = of_forget(), of_train()
        with torch.no_grad():
            for p, f, d in zip(damped.parameters(), *importances, strict=True):
                factor = (dampening * d / f).clamp(max=1)
                chosen = f > alpha * d
                p[chosen] *= factor[chosen]
        return damped

    return call


@waited_for
def scrub(net: "nn.Module", forget, retain, batch_size: int, rate: float, **options) -> Call:
    """One epoch: a pass of ascent over the forget set, one of descent over the retain set."""
    alpha, gamma, temperature = (options[k] for k in ("alpha", "gamma", "temperature"))
    forget, retain = torch_models.tensors(forget), torch_models.tensors(retain)

    def teach(x):
        with torch.no_grad():
            return torch.cat([net(part) for part in x.split(256)])

    def divergence(student, teacher):
        student = F.log_softmax(student / temperature, 1)
        teacher = F.log_softmax(teacher / temperature, 1)
        kl = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return kl * temperature**2

    def call():
        student = _student(net)
        optimizer = torch.optim.Adam(student.parameters(), rate)
        of_forget, of_retain = teach(forget[0]), teach(retain[0])
        for rows in torch.randperm(len(of_forget), device=of_forget.device).split(batch_size):
            _step(optimizer, -divergence(student(forget[0][rows]), of_forget[rows]))
        for rows in torch.randperm(len(of_retain), device=of_retain.device).split(batch_size):
            logits = student(retain[0][rows])
            near = alpha * divergence(logits, of_retain[rows])
            _step(optimizer, near + gamma * F.cross_entropy(logits, retain[1][rows]))
        return student

    return call


@waited_for
def ascent_plus(
    net: "nn.Module", forget, retain, batch_size: int, rate: float, beta: float
) -> Call:
    """One epoch of NegGrad+: a batch of each set per step, over the retain set."""
    forget, retain = torch_models.tensors(forget), torch_models.tensors(retain)

    def call():
        student = _student(net)
        optimizer = torch.optim.Adam(student.parameters(), rate)
        order = torch.randperm(len(retain[0]), device=retain[0].device).split(batch_size)
        for i, rows in enumerate(order):
            start = i * batch_size % len(forget[0])
            gone = torch.arange(start, start + batch_size, device=order[0].device) % len(forget[0])
            keep = F.cross_entropy(student(retain[0][rows]), retain[1][rows])
            lose = F.cross_entropy(student(forget[0][gone]), forget[1][gone])
            _step(optimizer, beta * keep - (1 - beta) * lose)
        return student

    return call


@waited_for
def ensemble(
    model: str, data, subsets, num_epochs: int, batch_size: int, rate: float, **options
) -> Call:
    """Many small models, one after another; `options` are those of `torch_models.network`."""
    inputs, targets = torch_models.tensors(data)
    shape = data["inputs"].shape[1:]

    def call():
        for rows in subsets:
            net = torch_models.network(model, shape, **options).train()
            optimizer = torch.optim.Adam(net.parameters(), rate)
            rows = torch.from_numpy(np.array(rows)).long().to(inputs.device)
            for _ in range(num_epochs):
                for batch in rows[torch.randperm(len(rows), device=rows.device)].split(batch_size):
                    _step(optimizer, F.cross_entropy(net(inputs[batch]), targets[batch]))

    return call


@waited_for
def project_gradients(
    net: "nn.Module", data, num_projections: int, batch_size: int, block: int | None = None
) -> Call:
    """Margin gradients by `torch.func`, times random signs.

    Args:
      block: signs are drawn anew for so many parameters at a time and batch, so that no matrix is
        stored; `None` stores it.
    """
    inputs, targets = torch_models.tensors(data)
    params = dict(net.named_parameters())
    count = sum(p.numel() for p in params.values())

    def margin(params, x, y):
        logits = torch.func.functional_call(net, params, (x[None],))[0]
        mask = torch.arange(len(logits), device=logits.device) == y
        true = logits.masked_fill(~mask, 0).sum()
        return true - torch.logsumexp(logits.masked_fill(mask, float("-inf")), 0)

    each = torch.func.vmap(torch.func.grad(margin), (None, 0, 0))

    def signs(rows, seed):
        rng = torch.Generator(inputs.device).manual_seed(seed)  # every batch needs the same ones
        drawn = torch.randint(
            0, 2, (rows, num_projections), dtype=torch.int8, generator=rng, device=rng.device
        )
        return drawn.float() * 2 - 1

    stored = signs(count, 0) if block is None else None

    def call():
        parts = []
        for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            gradients = each(params, x, y).values()
            flat = torch.cat([g.detach().flatten(1) for g in gradients], 1)
            if block is None:
                parts.append(flat @ stored)
            else:
                pieces = enumerate(flat.split(block, 1))
                parts.append(sum(piece @ signs(piece.shape[1], i) for i, piece in pieces))
        return torch.cat(parts) / num_projections**0.5

    return call


@waited_for
def woodbury(weight, inverse, features, targets) -> Call:
    """A deletion from the closed-form head."""
    arrays = _arrays(weight, inverse, features, targets)

    def call():
        weight, inverse, features, targets = arrays
        mapped = features @ inverse
        eye = torch.eye(len(features), dtype=features.dtype, device=features.device)
        factor = torch.linalg.cholesky(eye - mapped @ features.T)
        gain = torch.cholesky_solve(mapped, factor)
        return weight - gain.T @ (targets - features @ weight), inverse + mapped.T @ gain

    return call


@waited_for
def downdate(gram, moment, features, targets) -> Call:
    """The same from the normal equations, solved again."""
    arrays = _arrays(gram, moment, features, targets)

    def call():
        gram, moment, features, targets = arrays
        factor = torch.linalg.cholesky(gram - features.T @ features)
        return torch.cholesky_solve(moment - features.T @ targets, factor)

    return call


@waited_for
def resolve(features, targets, gamma: float) -> Call:
    """Ridge regression from all rows that are left."""
    arrays = _arrays(features, targets)

    def call():
        features, targets = arrays
        gram = features.T @ features
        gram.diagonal().add_(gamma)
        return torch.cholesky_solve(features.T @ targets, torch.linalg.cholesky(gram))

    return call


def _student(net: "nn.Module") -> "nn.Module":
    """A copy to be trained: every round starts from the same."""
    return copy.deepcopy(net).train()


def _arrays(*arrays) -> list["torch.Tensor"]:
    return [torch.from_numpy(np.array(x)).to(torch_models.device()) for x in arrays]


def _step(optimizer, loss) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
