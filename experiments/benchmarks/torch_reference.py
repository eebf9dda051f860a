"""The same mathematics in eager PyTorch, written as its users write it. Optional: torch.

Every function returns a call without arguments that computes, from the same data, what ours does;
tests/experiments/benchmarks_test.py holds the results against ours where torch is installed.
"""

import copy
from collections.abc import Callable, Sequence

import jax
import numpy as np

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:  # the references are then left out
    torch = None

Call = Callable[[], object]


def available() -> bool:
    """Whether torch can be imported."""
    return torch is not None


def version() -> str:
    """Of torch, and how many threads it uses."""
    return f"{torch.__version__}, {torch.get_num_threads()} threads" if torch else "not installed"


def network(
    model: str, shape: Sequence[int], variables=None, hidden: Sequence[int] = (256, 256)
) -> "nn.Module":
    """`models.MLP` or `models.ConvNet` on images of `shape` (HWC).

    Args:
      variables: of the Flax model, to be taken over; otherwise fresh ones.
      hidden: of the MLP.
    """
    height, width, channels = shape
    if model == "mlp":
        sizes = [height * width * channels, *hidden]
        layers = [nn.Flatten()]
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(a, b), nn.ReLU()]
        result = nn.Sequential(*layers, nn.Linear(sizes[-1], 10))
    else:
        result = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )
    if variables is not None:
        load(result, variables, (64, height // 4, width // 4))
    return result


def load(net: "nn.Module", variables, flattened: Sequence[int]) -> None:
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


def tensors(data) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Images, channels first, and labels."""
    inputs = torch.from_numpy(np.asarray(data["inputs"]).transpose(0, 3, 1, 2).copy())
    return inputs, torch.from_numpy(np.array(data["targets"])).long()


def epoch(net: "nn.Module", data, batch_size: int, rate: float) -> Call:
    """One training epoch of SGD."""
    inputs, targets = tensors(data)

    def call():
        student = copy.deepcopy(net)  # every round starts from the same
        optimizer = torch.optim.SGD(student.parameters(), rate)
        for rows in torch.randperm(len(inputs)).split(batch_size):
            _step(optimizer, F.cross_entropy(student(inputs[rows]), targets[rows]))
        return student

    return call


def fisher_exact(net: "nn.Module", data) -> Call:
    """Squared gradients one example at a time: eager torch's fastest way to the exact ones."""
    inputs, targets = tensors(data)

    def call():
        total = [torch.zeros_like(p) for p in net.parameters()]
        for i in range(len(inputs)):
            loss = F.cross_entropy(net(inputs[i : i + 1]), targets[i : i + 1])
            for sum_, g in zip(total, torch.autograd.grad(loss, net.parameters()), strict=True):
                sum_.addcmul_(g, g)
        return [t / len(inputs) for t in total]

    return call


def fisher_vmap(net: "nn.Module", data, batch_size: int = 100) -> Call:
    """The exact ones by `torch.func`."""
    inputs, targets = tensors(data)
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


def fisher_batch(net: "nn.Module", data, batch_size: int) -> Call:
    """Squares of batch-mean gradients, as the published SSD code takes them."""
    inputs, targets = tensors(data)

    def call():
        total = [torch.zeros_like(p) for p in net.parameters()]
        parts = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
        for x, y in parts:
            loss = F.cross_entropy(net(x), y)
            for sum_, g in zip(total, torch.autograd.grad(loss, net.parameters()), strict=True):
                sum_.addcmul_(g, g)
        return [t / len(parts) for t in total]

    return call


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


def scrub(net: "nn.Module", forget, retain, batch_size: int, rate: float, **options) -> Call:
    """One epoch: a pass of ascent over the forget set, one of descent over the retain set."""
    alpha, gamma, temperature = (options[k] for k in ("alpha", "gamma", "temperature"))
    forget, retain = tensors(forget), tensors(retain)

    def teach(x):
        with torch.no_grad():
            return torch.cat([net(part) for part in x.split(256)])

    def divergence(student, teacher):
        student = F.log_softmax(student / temperature, 1)
        teacher = F.log_softmax(teacher / temperature, 1)
        kl = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return kl * temperature**2

    def call():
        student = copy.deepcopy(net)
        optimizer = torch.optim.Adam(student.parameters(), rate)
        of_forget, of_retain = teach(forget[0]), teach(retain[0])
        for rows in torch.randperm(len(of_forget)).split(batch_size):
            _step(optimizer, -divergence(student(forget[0][rows]), of_forget[rows]))
        for rows in torch.randperm(len(of_retain)).split(batch_size):
            logits = student(retain[0][rows])
            near = alpha * divergence(logits, of_retain[rows])
            _step(optimizer, near + gamma * F.cross_entropy(logits, retain[1][rows]))
        return student

    return call


def ascent_plus(
    net: "nn.Module", forget, retain, batch_size: int, rate: float, beta: float
) -> Call:
    """One epoch of NegGrad+: a batch of each set per step, over the retain set."""
    forget, retain = tensors(forget), tensors(retain)

    def call():
        student = copy.deepcopy(net)
        optimizer = torch.optim.Adam(student.parameters(), rate)
        order = torch.randperm(len(retain[0])).split(batch_size)
        for i, rows in enumerate(order):
            start = i * batch_size % len(forget[0])
            gone = torch.arange(start, start + batch_size) % len(forget[0])
            keep = F.cross_entropy(student(retain[0][rows]), retain[1][rows])
            lose = F.cross_entropy(student(forget[0][gone]), forget[1][gone])
            _step(optimizer, beta * keep - (1 - beta) * lose)
        return student

    return call


def ensemble(
    model: str, data, subsets, num_epochs: int, batch_size: int, rate: float, **options
) -> Call:
    """Many small models, one after another; `options` are those of `network`."""
    inputs, targets = tensors(data)
    shape = data["inputs"].shape[1:]

    def call():
        for rows in subsets:
            net = network(model, shape, **options)
            optimizer = torch.optim.Adam(net.parameters(), rate)
            rows = torch.from_numpy(np.array(rows)).long()
            for _ in range(num_epochs):
                for batch in rows[torch.randperm(len(rows))].split(batch_size):
                    _step(optimizer, F.cross_entropy(net(inputs[batch]), targets[batch]))

    return call


def project_gradients(
    net: "nn.Module", data, num_projections: int, batch_size: int, block: int | None = None
) -> Call:
    """Margin gradients by `torch.func`, times random signs.

    Args:
      block: signs are drawn anew for so many parameters at a time and batch, so that no matrix is
        stored; `None` stores it.
    """
    inputs, targets = tensors(data)
    params = dict(net.named_parameters())
    count = sum(p.numel() for p in params.values())

    def margin(params, x, y):
        logits = torch.func.functional_call(net, params, (x[None],))[0]
        mask = torch.arange(len(logits)) == y
        true = logits.masked_fill(~mask, 0).sum()
        return true - torch.logsumexp(logits.masked_fill(mask, float("-inf")), 0)

    each = torch.func.vmap(torch.func.grad(margin), (None, 0, 0))

    def signs(rows, seed):
        rng = torch.Generator().manual_seed(seed)  # every batch needs the same ones
        drawn = torch.randint(0, 2, (rows, num_projections), dtype=torch.int8, generator=rng)
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


def woodbury(weight, inverse, features, targets) -> Call:
    """A deletion from the closed-form head."""
    arrays = [torch.from_numpy(np.array(x)) for x in (weight, inverse, features, targets)]

    def call():
        weight, inverse, features, targets = arrays
        mapped = features @ inverse
        eye = torch.eye(len(features), dtype=features.dtype)
        factor = torch.linalg.cholesky(eye - mapped @ features.T)
        gain = torch.cholesky_solve(mapped, factor)
        return weight - gain.T @ (targets - features @ weight), inverse + mapped.T @ gain

    return call


def downdate(gram, moment, features, targets) -> Call:
    """The same from the normal equations, solved again."""
    arrays = [torch.from_numpy(np.array(x)) for x in (gram, moment, features, targets)]

    def call():
        gram, moment, features, targets = arrays
        factor = torch.linalg.cholesky(gram - features.T @ features)
        return torch.cholesky_solve(moment - features.T @ targets, factor)

    return call


def resolve(features, targets, gamma: float) -> Call:
    """Ridge regression from all rows that are left."""
    arrays = [torch.from_numpy(np.array(x)) for x in (features, targets)]

    def call():
        features, targets = arrays
        gram = features.T @ features
        gram.diagonal().add_(gamma)
        return torch.cholesky_solve(features.T @ targets, torch.linalg.cholesky(gram))

    return call


def _step(optimizer, loss) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
