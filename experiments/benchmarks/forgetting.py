"""Requests from beginning to end: SSD, an epoch of SCRUB with its cached teacher, of NegGrad+."""

import jax
import optax

from experiments.benchmarks import problems, timing, torch_reference
from unlearnjax import unlearning
from unlearnjax.types import Request

RATE = 5e-4
SSD = {"alpha": 4.0, "dampening": 1.0}
SCRUB = {"alpha": 0.001, "gamma": 0.99, "temperature": 4.0}
BETA = 0.99


def run(sizes: dict[str, int], batch_size: int = 128, share: float = 0.1, repeats: int = 3):
    """Yields a record per model and method; `share` of `sizes[model]` examples is forgotten."""
    for model, num_examples in sizes.items():
        data, task = problems.images(num_examples, problems.shape(model)), problems.task(model)
        variables = task.init(jax.random.key(0), problems.part(data, slice(1)))
        cut = round(share * num_examples)
        forget, retain = problems.part(data, slice(cut)), problems.part(data, slice(cut, None))
        for name, unlearner in methods(batch_size).items():
            calls = {"ours": _program(unlearner, task, variables, data, Request(forget, retain))}
            if torch_reference.available() and model in ("mlp", "convnet"):
                net = torch_reference.network(model, problems.shape(model), variables)
                calls["torch"] = _torch(name, net, data, forget, retain, batch_size)
            case = f"{name}, {model}, {cut} of {num_examples} examples"
            yield timing.compare("forget", case, calls, repeats, examples=num_examples)


def methods(batch_size: int):
    """One epoch each, where there are epochs."""
    tx, one = optax.adam(RATE), {"num_epochs": 1, "batch_size": batch_size}
    return {
        "ssd": unlearning.ssd(**SSD, batch_size=batch_size),
        "scrub": unlearning.scrub(tx, max_epochs=1, **one, **SCRUB),
        "gradient_ascent_plus": unlearning.gradient_ascent_plus(tx, beta=BETA, **one),
    }


def _program(unlearner, task, variables, data, request):
    """`init` and `update`: what a first request costs."""

    def both(rng, variables, data, request):
        variables, memory = unlearner.init(rng, task, variables, data)
        return unlearner.update(rng, task, variables, memory, request)[0]

    return timing.program(both, jax.random.key(1), variables, data, request)


def _torch(name, net, data, forget, retain, batch_size):
    if name == "ssd":
        return torch_reference.ssd(net, data, forget, batch_size, **SSD)
    if name == "scrub":
        return torch_reference.scrub(net, forget, retain, batch_size, RATE, **SCRUB)
    return torch_reference.ascent_plus(net, forget, retain, batch_size, RATE, BETA)
