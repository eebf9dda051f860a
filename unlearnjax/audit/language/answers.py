"""A model's answers in one teacher-forced pass; logits never leave the batch that they are of."""

import jax.numpy as jnp
import numpy as np

from unlearnjax import data as data_lib
from unlearnjax import training
from unlearnjax.audit.language import tokens
from unlearnjax.types import Array, Batch, Data, Outputs, Task, Variables

_COLUMNS = ("inputs", "targets", "answer")


def observed(
    task: Task, variables: Variables, data: Data, *, share: float = 0.2, batch_size: int = 32
) -> dict[str, Array]:
    """`{name: [N]}`: 'loss', 'probability', 'min_k', and 'min_k_plus_plus' of a task with logits.

    A task that computes them in chunks has none.

    Args:
      task: a language model's, see `tasks.language_modelling`.
      variables: the model's.
      data: with `answer` `[N, T]`.
      share: of Min-K%.
      batch_size: examples per step; results do not depend on it.

    Cost: one forward pass over the data.
    """

    def of_batch(batch: Batch) -> dict[str, Array]:
        outputs, _ = task.apply(variables, batch, None, False)
        log_probs, answer = outputs["log_probs"], batch["answer"]
        found = {
            "loss": task.loss(outputs, batch),
            "probability": tokens.probability(log_probs, answer),
            "min_k": tokens.min_k(log_probs, answer, share),
        }
        if "logits" in outputs:
            surprise = tokens.standardised(outputs["logits"], batch["targets"])
            found["min_k_plus_plus"] = tokens.min_k(surprise, answer, share)
        return found

    return training.map_batches(of_batch, data_lib.numeric(data), batch_size)


def losses(
    task: Task,
    variables: Variables,
    data: Data,
    view: str | None = None,
    *,
    batch_size: int = 32,
) -> Array:
    """The task's loss, the mean over tokens of `-log p_t`, of each answer or of several to each.

    Args:
      task: a language model's.
      variables: the model's.
      data: with `inputs`, `targets` and `answer`, or those of a view, `VIEW.inputs` and so on:
        `[N, T]`, or `[N, K, T]` for K answers to every question.
      view: whose columns take the place of the example's own; default these.
      batch_size: answers per step.

    Returns:
      `[N]`, or `[N, K]`.

    Raises:
      ValueError: for data without the columns of the view.

    Cost: one forward pass over all answers.
    """
    start = "" if view is None else f"{view}."
    lacking = [start + name for name in _COLUMNS if start + name not in data]
    if lacking:
        raise ValueError(f"data must have the column {lacking[0]!r}, got {sorted(data)}")
    own = {name: jnp.asarray(data[start + name]) for name in _COLUMNS}
    shape = own["targets"].shape[:-1]
    several = shape[1] if len(shape) > 1 else 1
    flat = {name: value.reshape(-1, value.shape[-1]) for name, value in own.items()}
    other = {k: v for k, v in data_lib.numeric(data).items() if k not in _COLUMNS and "." not in k}
    flat |= {name: jnp.repeat(jnp.asarray(x), several, axis=0) for name, x in other.items()}

    def of_batch(batch: Batch) -> Array:
        return task.loss(task.apply(variables, batch, None, False)[0], batch)

    return training.map_batches(of_batch, flat, batch_size).reshape(shape)


def continuations(data: Data, said: Outputs) -> dict[str, np.ndarray]:
    """What a model has generated, as answers: for its `losses` under another model.

    Gibberish is unlikely to a model that never saw what was asked about, and what such a model may
    have said itself is not: an oracle's own answers have the value to compare with. On the host.

    Args:
      data: prompts, `condition` `[N, P]` and `condition_length` `[N]`.
      said: `tokens` `[N, M]` and `length` `[N]` of `tasks.generate`.

    Returns:
      `inputs`, `targets` and `answer` `[N, P + M - 1]`. The token that ended an answer counts,
      where one did; what comes behind is 0.

    Examples:
      >>> prompts = {"condition": [[5, 6], [7, 0]], "condition_length": [2, 1]}
      >>> found = continuations(prompts, {"tokens": [[8, 2], [9, 9]], "length": [1, 2]})
      >>> found["targets"].tolist(), found["answer"].tolist()
      ([[6, 8, 2], [9, 9, 0]], [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    """
    prompts, begin = (np.asarray(data[name]) for name in ("condition", "condition_length"))
    tokens, length = (np.asarray(said[name]) for name in ("tokens", "length"))
    most, place = prompts.shape[1], np.arange(prompts.shape[1] + tokens.shape[1])
    begin, end = begin[:, None], (begin + np.minimum(length + 1, tokens.shape[1]))[:, None]
    own = np.where(place < begin, place, np.minimum(place - begin + most, place[-1]))
    whole = np.take_along_axis(np.concatenate([prompts, tokens], axis=1), own, axis=1)
    whole = np.where(place < end, whole, 0)
    answer = ((place >= begin) & (place < end))[:, 1:].astype(np.float32)
    return {"inputs": whole[:, :-1], "targets": whole[:, 1:], "answer": answer}
