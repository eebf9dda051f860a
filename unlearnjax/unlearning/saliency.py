"""Moving only the parameters that matter most to the forget set: the mask of SalUn."""

import optax

from unlearnjax import checks, curvature
from unlearnjax.types import Array, PyTree, Request, Task, Variables
from unlearnjax.unlearning import transforms
from unlearnjax.unlearning.descend import Transform


def salient(tx: optax.GradientTransformation, keep: float, of=lambda task: task) -> Transform:
    """`tx` for `descend`, with updates for the share `keep` of the parameters alone.

    These are the ones with the largest gradient of the mean loss on the forget set (true labels,
    evaluation mode) at the given model; all others stay bit-equal.

    Args:
      tx: any transformation.
      keep: in (0, 1]; 0.5 is the published median.
      of: `task -> task` whose loss it is, where that is not the loss of the task itself.

    Returns:
      A transformation made of the model and the request. Cost: one pass over the forget set.

    Raises:
      ValueError: for a value out of range.

    References:
      Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR
      2024 (arXiv 2310.12508), equation 3.
    """
    checks.part(keep=keep)

    def transform(rng: Array, task: Task, variables: Variables, request: Request):
        del rng
        return transforms.masked(tx, mask(of(task), variables, request, keep))

    return transform


def mask(task: Task, variables: Variables, request: Request, keep: float) -> PyTree:
    """0/1 tree like the parameters, see `salient`."""
    gradient = curvature.mean_gradient(task, variables, request.forget)
    return transforms.saliency_mask(gradient, keep)
