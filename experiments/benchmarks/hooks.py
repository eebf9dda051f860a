"""What seeing a hidden activation costs: a forward pass with one layer captured, and without."""

from collections.abc import Iterator, Mapping
from functools import partial

from experiments.benchmarks import problems, timing
from unlearnjax import tasks
from unlearnjax.types import Task


def run(layers: Mapping[str, str], sizes: Mapping[str, int], repeats: int = 20) -> Iterator[dict]:
    """Yields one record per model, of outputs with the layer's activations and of outputs alone.

    Args:
      layers: which one is captured, by model.
      sizes: examples of the pass, by model.
      repeats: rounds.
    """
    for model, layer in layers.items():
        task, data, variables, *_ = problems.problem(model, sizes[model])
        seen = {"ours": tasks.capture(task, (layer,)), "without": task}
        calls = {
            name: timing.program(partial(forward, shown), variables, data)
            for name, shown in seen.items()
        }
        case = f"{layer} of {model}, {sizes[model]} examples"
        yield timing.compare("capture", case, calls, repeats, counts={"images": sizes[model]})


def forward(task: Task, variables, batch):
    """Outputs in evaluation mode."""
    return task.apply(variables, batch, None, False)[0]
