"""Requests from beginning to end: SSD, an epoch of SCRUB with its cached teacher, of NegGrad+."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import optax

from experiments.benchmarks import problems, timing, torch_models, torch_reference
from unlearnjax import unlearning
from unlearnjax.types import Request

RATE = 5e-4
SSD = {"alpha": 4.0, "dampening": 1.0}
SCRUB = {"alpha": 0.001, "gamma": 0.99, "temperature": 4.0}
BETA = 0.99


METHODS = ("ssd", "scrub", "gradient_ascent_plus")


def run(
    sizes: dict[str, int],
    batch_size: int = 128,
    share: float = 0.1,
    methods: tuple[str, ...] = METHODS,
    source: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    repeats: int = 3,
):
    """Yields a record per model and method; `share` of `sizes[model]` examples is forgotten.

    Args:
      source: of the images, see `problems.examples`.
      options: of the models.
    """
    for model, num_examples in sizes.items():
        problem = problems.problem(model, num_examples, None, source, **options)
        task, data, variables, shape, text = problem
        cut = round(share * num_examples)
        forget, retain = problems.part(data, slice(cut)), problems.part(data, slice(cut, None))
        for name in methods:
            unlearner = unlearners(batch_size)[name]
            calls = {"ours": _program(unlearner, task, variables, data, Request(forget, retain))}
            if torch_models.available() and model in torch_models.KNOWN:
                net = torch_models.network(model, shape, variables, **options)
                calls["torch"] = _torch(name, net, data, forget, retain, batch_size)
            yield timing.compare(
                "forget",
                f"{name}, {model}, {cut} of {text}",
                calls,
                repeats,
                counts={"images": num_examples},
                examples=num_examples,
            )


def unlearners(batch_size: int):
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
