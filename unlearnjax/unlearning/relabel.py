"""Wrong labels for the forget set: random labelling, SalUn."""

from collections.abc import Callable

import jax
import optax

from unlearnjax import curvature, training
from unlearnjax.types import Array, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives, transforms
from unlearnjax.unlearning.descend import Transform, descend, original

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
    relabel: Relabel | None = None,
) -> Unlearner:
    """Trains on the forget set with random wrong labels, and on the retain set with its own.

    The labels are drawn once per request, uniformly among the other classes. In training mode.

    Args:
      tx: optax transformation.
      num_epochs: passes over both sets, shuffled together.
      batch_size: examples per step.
      retain_weight: coefficient of the retain loss.
      relabel: what draws the labels; `None` is as said above.

    Returns:
      An unlearner that needs forget and retain data and labels.

    References:
      Golatkar et al., "Eternal Sunshine of the Spotless Net", CVPR 2020; Graves et al., "Amnesiac
      Machine Learning", AAAI 2021.
    """
    objective = objectives.combine(
        forget=[(1.0, objectives.task_loss)],
        retain=[(retain_weight, objectives.task_loss)],
        train=True,
    )
    loop = descend(objective, tx, over="union", num_epochs=num_epochs, batch_size=batch_size)
    return relabelled(loop, relabel or _random)


def salun(
    tx: optax.GradientTransformation,
    *,
    keep: float = 0.5,
    num_epochs: int = 10,
    batch_size: int = 128,
    retain_weight: float = 1.0,
) -> Unlearner:
    """SalUn: random labelling that moves only the weights most salient to the forget set.

    Salient are those with the largest gradient of the forget loss (true labels, evaluation mode) at
    the given model; all others stay bit-equal.

    Args:
      keep: share of the parameters that may move, in (0, 1]; 0.5 is the paper's median.
      tx, num_epochs, batch_size, retain_weight: see `random_label`.

    Returns:
      An unlearner that needs forget and retain data and labels. Cost: that of `random_label` and
      one pass over the forget set.

    Raises:
      ValueError: for a value out of range.

    References:
      Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR
      2024 (arXiv 2310.12508).
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], got {keep}")
    options = {
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "retain_weight": retain_weight,
    }

    def update(rng, task, variables, memory, request: Request):
        gradient = curvature.mean_gradient(task, variables, request.forget)
        mask = transforms.saliency_mask(gradient, keep)
        inner = random_label(transforms.masked(tx, mask), **options)
        return inner.update(rng, task, variables, memory, request)

    return random_label(tx, **options)._replace(update=update)


def _random(rng: Array, task: Task, frozen: Variables, request: Request) -> Array:
    forget = request.forget
    num_classes = training.output_shapes(task, frozen, forget)["logits"].shape[-1]
    return objectives.random_targets(rng, forget["targets"], num_classes)
