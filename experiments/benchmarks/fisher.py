"""The exact Fisher diagonal by layer rules, against its definition, the batch variant, PyTorch."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from experiments.benchmarks import problems, timing, torch_models, torch_reference
from unlearnjax import curvature


def run(
    sizes: dict[str, int],
    batch_size: int = 128,
    definition: bool = True,
    max_bytes: int = 2**28,
    sample: int = 0,
    source: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    repeats: int = 3,
):
    """Yields one record per model, over `sizes[model]` examples.

    Args:
      definition: whether ours by the definition, one gradient per example, is timed, too.
      max_bytes: of the per-example gradients that ours holds at once.
      sample: how many examples PyTorch's exact ones get, and by `torch.func` alone; their time is
        scaled to all. 0 is all, and one by one, too.
      source: of the images, see `problems.examples`.
      options: of the models.
    """
    for model, num_examples in sizes.items():
        problem = problems.problem(model, num_examples, None, source, **options)
        task, data, variables, shape, text = problem
        size = min(batch_size, num_examples)

        def fisher(method, task=task, variables=variables, data=data, size=size):
            limits = {"batch_size": size, "max_bytes": max_bytes}
            call = partial(curvature.fisher_diagonal, task, method=method, **limits)
            return timing.program(call, variables, data)

        batch = partial(curvature.batch_gradient_squared, task, batch_size=size)
        calls = {"ours": fisher("layers")}
        if definition:
            calls["vmap(grad)"] = fisher("vmap")
        calls["batch squared (inexact)"] = timing.program(batch, variables, data)
        if torch_models.available() and model in torch_models.KNOWN:
            net = torch_models.network(model, shape, variables, **options)
            if not sample:
                calls["torch, one by one"] = torch_reference.fisher_exact(net, data)
            few = problems.part(data, slice(sample or num_examples))
            exact = torch_reference.fisher_vmap(net, few)
            calls["torch.func"] = timing.Sample(exact, len(few["targets"]) / num_examples)
            calls["torch, batch squared (inexact)"] = torch_reference.fisher_batch(net, data, size)
        yield timing.compare(
            "fisher",
            f"{model}, {text}",
            calls,
            repeats,
            counts={"images": num_examples},
            examples=num_examples,
        )
