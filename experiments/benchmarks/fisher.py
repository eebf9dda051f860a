"""The exact Fisher diagonal by layer rules, against its definition, the batch variant, PyTorch."""

from functools import partial

import jax

from experiments.benchmarks import problems, timing, torch_reference
from unlearnjax import curvature


def run(sizes: dict[str, int], batch_size: int = 128, definition: bool = True, repeats: int = 3):
    """Yields one record per model, over `sizes[model]` examples; `definition` also times that."""
    for model, num_examples in sizes.items():
        shape = problems.shape(model)
        data, task = problems.images(num_examples, shape), problems.task(model)
        variables = task.init(jax.random.key(0), problems.part(data, slice(1)))
        size = min(batch_size, num_examples)

        def fisher(method, task=task, variables=variables, data=data):
            call = partial(curvature.fisher_diagonal, task, method=method)
            return timing.program(call, variables, data)

        batch = partial(curvature.batch_gradient_squared, task, batch_size=size)
        calls = {"ours": fisher("layers")}
        if definition:
            calls["vmap(grad)"] = fisher("vmap")
        calls["batch squared (inexact)"] = timing.program(batch, variables, data)
        if torch_reference.available() and model in ("mlp", "convnet"):
            net = torch_reference.network(model, shape, variables)
            calls["torch, one by one"] = torch_reference.fisher_exact(net, data)
            calls["torch.func"] = torch_reference.fisher_vmap(net, data)
            calls["torch, batch squared (inexact)"] = torch_reference.fisher_batch(net, data, size)
        case = f"{model}, {num_examples} examples"
        yield timing.compare("fisher", case, calls, repeats, examples=num_examples)
