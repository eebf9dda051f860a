"""What is said in answer: its log-probability under a model, and the loop that most methods share.

A language model's answer y is the tokens at which the column `answer` is 1; its task has the output
'log_probs' `[B, T]` of the targets. A classifier's answer is one token, the label.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks, tasks, training, trees
from unlearnjax import data as data_lib
from unlearnjax.types import (
    PARTS,
    Array,
    Batch,
    Data,
    Outputs,
    Request,
    Task,
    Unlearner,
    Variables,
)
from unlearnjax.unlearning import objectives, teachers
from unlearnjax.unlearning.descend import Transform, descend

PER = ("sequence", "token")
RETAIN = ("nll", "kl", None)


def answered(task: Task) -> Task:
    """The task with the output 'log_probs' `[B, T]`: a language model's own, a classifier's T is 1.

    Drawn for evaluation: what is random in training alone, such as crops, is left out.

    Raises:
      ValueError: when the model is applied, if it has neither, or a classifier's batch no labels.
    """

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        outputs, updated = task.apply(variables, batch, rng, train)
        if "log_probs" not in outputs:
            outputs = {**outputs, "log_probs": _label_log_probs(outputs, batch)}
        return outputs, updated

    return (task if task.num_draws else tasks.expected(task))._replace(apply=apply)


def log_prob(
    outputs: Outputs, batch: Batch, per: str = "sequence", view: str | None = None
) -> Array:
    """`[B]`: log p(y|x), the sum over the answer's tokens, or their mean where `per` is 'token'.

    Args:
      outputs: of an `answered` task.
      batch: with the column `answer` `[B, T]` of a language model.
      per: 'sequence' or 'token'.
      view: whose answer, see `objectives.combine`; default the example's own.
    """
    start = "" if view is None else f"{view}."
    log_probs = trees.widened(outputs[f"{start}log_probs"])
    spoken = mask(batch, log_probs.shape, f"{start}answer")
    return total(log_probs, spoken) if per == "sequence" else mean(log_probs, spoken)


def total(values: Array, spoken: Array) -> Array:
    """`[B]`: the sum of values `[B, T]` over the tokens that are spoken."""
    # What is not may be infinite: 0 times that would be no number.
    return jnp.where(spoken > 0, values, 0).sum(-1)


def mean(values: Array, spoken: Array) -> Array:
    """`[B]`: their mean; 0 where none is."""
    return total(values, spoken) / jnp.maximum(spoken.sum(-1), 1)


def mask(batch: Batch, shape: tuple[int, ...], column: str = "answer") -> Array:
    """`[B, T]`: 1 for the answer's tokens; a classifier's batch has no such column, and T is 1.

    Raises:
      ValueError: for another shape than the outputs have, or tokens without the column.
    """
    label = len(shape) == 2 and shape[1] == 1 and np.ndim(batch.get("targets")) == 1
    if column not in batch and not label:
        raise ValueError(
            f"the batch must have {column!r}, which of {list(shape)} tokens are answer, it has "
            f"{sorted(batch)}"
        )
    spoken = jnp.asarray(batch.get(column, jnp.ones(shape)))
    if spoken.shape != shape:
        raise ValueError(
            f"{column} must be {list(shape)} as the task's outputs, got {list(spoken.shape)}"
        )
    # Sums of narrow types wrap or round.
    return spoken.astype(jnp.promote_types(spoken.dtype, jnp.float32))


def token_logits(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Array]:
    """Logits `[B, T, V]`, targets and mask `[B, T]`; T is 1 for a classifier.

    Raises:
      ValueError: for a task without logits, such as one that computes 'log_probs' in chunks.
    """
    logits, targets = trees.widened(tasks.logits(outputs)), batch["targets"]
    if logits.ndim == 2:
        logits, targets = logits[:, None], targets[:, None]
    return logits, targets, mask(batch, targets.shape)


def balanced(
    forget: objectives.Terms,
    tx: Transform,
    *,
    retain: str | None,
    retain_weight: float,
    num_steps: int,
    batch_size: int,
    cached: bool = False,
    views: Sequence[str] = (),
) -> Unlearner:
    """Terms on the forget set, and one that holds the model on the retain set.

    The student is in evaluation mode: published models have no dropout.

    Args:
      forget: (coefficient, term) pairs, of the outputs of an `answered` task.
      tx: optax transformation, or what makes one.
      retain: 'nll', the task's loss; 'kl', `KL(original || student)` as the task compares
        predictions; `None`: the retain set is not looked at.
      retain_weight: of that term, >= 0.
      num_steps: updates, each with a batch of either set; of the forget set alone for `None`.
      batch_size: examples of each set per step.
      cached: whether the original's 'log_probs' are computed once, on the forget set alone.
      views: see `objectives.combine`.

    Raises:
      ValueError: for a value out of range; at the request for a view that the forget set lacks, or
        tokens of either set without `answer`.
    """
    checks.one_of(retain=(retain, RETAIN))
    checks.finite(retain_weight=retain_weight)
    checks.at_least(0, retain_weight=retain_weight)
    holding = {"nll": objectives.task_loss, "kl": objectives.divergence("original")}
    loop = descend(
        objectives.combine(
            forget=forget,
            retain=() if retain is None else [(retain_weight, holding[retain])],
            views=views,
        ),
        tx,
        over="forget" if retain is None else "paired",
        num_steps=num_steps,
        batch_size=batch_size,
        teachers={"original": teachers.original_model},
        cache_teachers=(),
    )

    def update(rng, task, variables, memory, request: Request):
        task, rows = answered(task), request.forget
        require_answer(forget=rows, retain=None if retain is None else request.retain)
        for view in views:
            require_view(rows, view)
        if cached:
            model = teachers.original(variables, request)
            rows = {**rows, **_said(task, model, rows, views, batch_size)}
        for view in (own for own in views if several(rows, own)):
            task = drawing(task, view)
        return loop.update(rng, task, variables, memory, request._replace(forget=rows))

    return loop._replace(update=update)


def require_answer(**parts: Data | None) -> None:
    """Raises `ValueError` for tokens, targets `[N, T]`, without the column that says what is said.

    Without it prompt and padding would count; and with it in one of two sets, the other would get
    the mask of a row that is not its own.
    """
    for name, data in parts.items():
        targets = None if data is None else data.get("targets")
        tokens = np.ndim(targets) == 2 and np.issubdtype(targets.dtype, np.integer)
        if tokens and "answer" not in data:
            raise ValueError(
                f"{name} must have the column 'answer' where targets are tokens "
                f"{list(targets.shape)}, it has {sorted(data)}"
            )


def require_view(data: Data, view: str) -> None:
    """Raises `ValueError` unless a forget set has another answer to its prompts.

    That of a language model has `VIEW.inputs`, `VIEW.targets` and `VIEW.answer`, a classifier's
    `VIEW.targets`.
    """
    columns = ("inputs", "targets", "answer") if "answer" in data else ("targets",)
    lacking = [f"{view}.{name}" for name in columns if f"{view}.{name}" not in data]
    if lacking:
        raise ValueError(f"forget must have the column {lacking[0]!r}, it has {sorted(data)}")


def several(data: Data, view: str) -> bool:
    """Whether an example has several answers in a view, whose columns are `[N, K, ...]`."""
    return np.ndim(data[f"{view}.targets"]) > np.ndim(data["targets"])


def drawing(task: Task, view: str, instead: bool = False) -> Task:
    """The task that draws one of an example's K answers in a view, anew in every step.

    Args:
      task: any.
      view: of which there are `several`; what a teacher said of each is drawn along.
      instead: whether it takes the place of the example's own answer, in the forget set.
    """

    def draw(rng: Array, example: Batch, train: bool) -> Batch:
        own, rest = jax.random.split(rng)
        chosen = jax.random.randint(own, (), 0, example[f"{view}.targets"].shape[0])
        named = [name for name in example if f".{view}." in f".{name}"]
        example = {**example, **{name: example[name][chosen] for name in named}}
        if instead:
            here = example["part"] == PARTS.index("forget")
            views = objectives.viewed_batch(example, view)
            example = {k: jnp.where(here, views[k], x) for k, x in example.items()}
        return example if task.draw is None else task.draw(rest, example, train)

    return task._replace(draw=draw, num_draws=max(1, task.num_draws))


def _said(
    task: Task, original: Variables, data: Data, views: Sequence[str], batch_size: int
) -> dict[str, Array]:
    """Columns of the original's log-probabilities, in the batches of the loop: logits are large."""

    def log_probs(batch: Batch) -> dict[str, Array]:
        say = lambda given: task.apply(original, given, None, False)[0]["log_probs"]
        found = {"original.log_probs": say(batch)}
        for view in views:
            own = {k: x for k, x in batch.items() if k.startswith(f"{view}.")}
            of = lambda one, view=view: say(objectives.viewed_batch({**batch, **one}, view))
            if several(batch, view):  # one after another: logits are large
                turns = jax.lax.map(of, {k: jnp.moveaxis(x, 1, 0) for k, x in own.items()})
                found[f"original.{view}.log_probs"] = jnp.moveaxis(turns, 0, 1)
            else:
                found[f"original.{view}.log_probs"] = of(own)
        return found

    return training.map_batches(log_probs, data_lib.numeric(data), batch_size)


def _label_log_probs(outputs: Outputs, batch: Batch) -> Array:
    """`[B, 1]`, of a classifier's labels."""
    shape = getattr(outputs.get("logits"), "shape", ())
    targets = batch.get("targets")
    classes = len(shape) == 2 and shape[1] > 1
    if not classes or not jnp.issubdtype(jnp.result_type(targets), jnp.integer):
        raise ValueError(
            "the task must return 'log_probs' [B, T], or 'logits' [B, C] for targets [B] that are "
            f"classes, it returns {sorted(outputs)} for a batch of {sorted(batch)}"
        )
    log_probs = jax.nn.log_softmax(trees.widened(outputs["logits"]))
    return jnp.take_along_axis(log_probs, targets[:, None], axis=-1)
