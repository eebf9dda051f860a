"""Wrong labels for the forget set: random labelling, SalUn."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks, training
from unlearnjax.types import Array, Batch, Data, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives, saliency
from unlearnjax.unlearning.descend import Transform, descend
from unlearnjax.unlearning.teachers import original

# (rng, task, original model, request) -> new targets of the forget set [N]
Relabel = Callable[[Array, Task, Variables, Request], Array]


def relabelled(unlearner: Unlearner, relabel: Relabel) -> Unlearner:
    """`unlearner`, handed a forget set whose targets are replaced, once per request."""

    def update(rng, task, variables, memory, request: Request):
        label_rng, rng = jax.random.split(rng)
        targets = relabel(label_rng, task, original(variables, request), request)
        forget = {**request.forget, "targets": targets}
        return unlearner.update(rng, task, variables, memory, request._replace(forget=forget))

    return unlearner._replace(update=update)


def random_label(
    tx: Transform,
    *,
    num_epochs: int = 10,
    batch_size: int = 128,
    retain_weight: float = 1.0,
    over: str = "union",
    weighting: str = "example",
    relabel: Relabel | None = None,
) -> Unlearner:
    """Trains on the forget set with random labels, and on the retain set with its own.

    The labels are drawn anew every time that an example is visited, uniformly over all classes, its
    own among them, as in the code of Fan et al. In training mode.

    Args:
      tx: optax transformation.
      num_epochs: passes over both sets.
      batch_size: examples per step.
      retain_weight: coefficient of the retain loss; 1 in the papers.
      over: 'union', both sets shuffled together, or 'alternate', in every pass first the batches of
        the forget set, then those of the retain set. Fan et al. do the latter on CIFAR-10 and
        SVHN, the former on CIFAR-100 and Tiny-ImageNet.
      weighting: of the union, see `objectives.combine`; in the papers every example weighs alike.
      relabel: what draws the labels once per request instead; `other_classes` is Graves et al.'s.

    Returns:
      An unlearner that needs forget and retain data and labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Golatkar et al., "Eternal Sunshine of the Spotless Net", CVPR 2020; Graves et al., "Amnesiac
      Machine Learning", AAAI 2021; Fan et al., "SalUn", ICLR 2024.
    """
    checks.one_of(over=(over, ("union", "alternate")))
    checks.at_least(0, retain_weight=retain_weight)
    objective = objectives.combine(
        forget=[(1.0, objectives.task_loss)],
        retain=[(retain_weight, objectives.task_loss)],
        train=True,
        weighting=weighting,
        prepare=any_class if relabel is None else None,
    )
    loop = descend(objective, tx, over=over, num_epochs=num_epochs, batch_size=batch_size)
    return loop if relabel is None else relabelled(loop, relabel)


def other_classes(rng: Array, task: Task, frozen: Variables, request: Request) -> Array:
    """`[N]` labels for the forget set, each uniform among the classes other than its own."""
    return objectives.random_targets(
        rng, request.forget["targets"], _num_classes(task, frozen, request.forget)
    )


def salun(
    tx: optax.GradientTransformation,
    *,
    keep: float = 0.5,
    num_epochs: int = 10,
    batch_size: int = 128,
    retain_weight: float = 1.0,
    over: str = "union",
    weighting: str = "example",
) -> Unlearner:
    """SalUn: random labelling that moves only the weights most salient to the forget set.

    Salient are those with the largest gradient of the forget loss (true labels, evaluation mode) at
    the given model; all others stay bit-equal.

    Args:
      keep: share of the parameters that may move, in (0, 1]; 0.5 is the paper's median.
      tx, num_epochs, batch_size, retain_weight, over, weighting: see `random_label`.

    Returns:
      An unlearner that needs forget and retain data and labels. Cost: that of `random_label` and
      one pass over the forget set.

    Raises:
      ValueError: for a value out of range.

    References:
      Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR
      2024 (arXiv 2310.12508).
    """
    return random_label(
        saliency.salient(tx, keep),
        num_epochs=num_epochs,
        batch_size=batch_size,
        retain_weight=retain_weight,
        over=over,
        weighting=weighting,
    )


def any_class(task: Task, variables: Variables, teachers, batch: Batch, rng: Array) -> Batch:
    """The batch with the forget set's targets drawn uniformly over all classes: a `Prepare`."""
    del teachers
    targets = batch["targets"]
    drawn = jax.random.randint(rng, targets.shape, 0, _num_classes(task, variables, batch))
    drawn = drawn.astype(targets.dtype)
    return {**batch, "targets": jnp.where(objectives.member(batch, "forget") > 0, drawn, targets)}


def _num_classes(task: Task, variables: Variables, data: Data) -> int:
    return tasks.num_classes(training.output_shapes(task, variables, data))
