"""What a model says by itself: samples, continuations, answers."""

from unlearnjax.types import Array, Batch, Outputs, Task, Variables


def generate(task: Task, variables: Variables, rng: Array, batch: Batch) -> Outputs:
    """What the model generates for a batch, as the task's `generate` says.

    It is handed the task itself, so that what has become of its `apply` (`edit`, `capture`, an
    unlearner's `serve`) has become of what it generates.

    Args:
      task, variables: the model.
      rng: of what is drawn on the way.
      batch: what is generated for: `condition`, prompts, see the task.

    Raises:
      ValueError: for a task that generates nothing.
    """
    if task.generate is None:
        raise ValueError("the task must generate: it has no function `generate`, it only predicts")
    return task.generate(task, variables, rng, batch)
