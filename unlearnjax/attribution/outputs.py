"""What can be attributed: functions of a model's outputs on a batch, `[B, C]`.

Of a task that draws, outputs are those of one draw that is always the same.
"""

from collections.abc import Callable

from unlearnjax import tasks
from unlearnjax.types import Array, Batch, Task, Variables

# (task, variables, batch) -> [B, C]
Output = Callable[[Task, Variables, Batch], Array]


def margin_output(task: Task, variables: Variables, batch: Batch) -> Array:
    """`[B, 1]`: the log-odds of the true class, `log(p / (1 - p))`."""
    outputs, _ = tasks.expected(task, 1).apply(variables, batch, None, False)
    return tasks.margin(outputs["logits"], batch["targets"])[:, None]


def logit_output(task: Task, variables: Variables, batch: Batch) -> Array:
    """`[B, C]`: the logits less their mean over classes, which no prediction depends on."""
    outputs, _ = tasks.expected(task, 1).apply(variables, batch, None, False)
    return outputs["logits"] - outputs["logits"].mean(-1, keepdims=True)
