"""What can be attributed: functions of a model's outputs on a batch, `[B, C]`.

Of a task that draws, outputs are those of one draw that is always the same.
"""

from collections.abc import Callable

from unlearnjax import tasks
from unlearnjax.types import Array, Batch, Task, Variables

# (task, variables, batch) -> [B, C]
Output = Callable[[Task, Variables, Batch], Array]


def margin_output(task: Task, variables: Variables, batch: Batch) -> Array:
    """`[B, 1]`: the log-odds of the true class, `log(p / (1 - p))`.

    Of a language model the mean over the answer's tokens.
    """
    outputs, _ = tasks.expected(task, 1).apply(variables, batch, None, False)
    logits, targets = tasks.logits(outputs), batch["targets"]
    margins = tasks.margin(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    return tasks.over_answer(margins.reshape(targets.shape), batch)[:, None]


def logit_output(task: Task, variables: Variables, batch: Batch) -> Array:
    """`[B, C]`: the logits less their mean over classes, which no prediction depends on.

    Raises:
      ValueError: if there are none, or several of each example, as of a language model.
    """
    outputs, _ = tasks.expected(task, 1).apply(variables, batch, None, False)
    logits = tasks.logits(outputs)
    if logits.ndim != 2:
        raise ValueError(f"the task must have 'logits' [B, C], they are {list(logits.shape)}")
    return logits - logits.mean(-1, keepdims=True)
