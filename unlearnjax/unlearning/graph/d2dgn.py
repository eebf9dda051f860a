"""D2DGN: a student learns what is retained from the original, what is deleted from a novice."""

from collections.abc import Sequence

import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax import data as data_lib
from unlearnjax.types import Data, Outputs, Request, Unlearner
from unlearnjax.unlearning import ids, objectives
from unlearnjax.unlearning.chain import chain
from unlearnjax.unlearning.descend import Transform, descend
from unlearnjax.unlearning.retrain import reinitialise
from unlearnjax.unlearning.teachers import incompetent_model, original_model

FORMS = ("response", "feature")


def d2dgn(
    tx: Transform,
    *,
    alpha: float = 0.5,
    form: str = "response",
    layers: Sequence[str] | None = None,
    num_epochs: int = 100,
    batch_size: int = 512,
) -> Unlearner:
    """Distill to Delete: a fresh student of two teachers, the preserver and the destroyer.

    Minimises `alpha mean_retain d(preserver, student) + (1 - alpha) mean_forget d(destroyer,
    student)`. The preserver is the original on its own graph, with what is deleted in it; the
    destroyer was never trained. The student and the destroyer see the edited graph alone.

    No official code was found. A third party's runs all three on the whole graph, deleted edges
    included, sums the squares of the feature form over nodes, and takes the pairs without an edge
    for what is deleted, too, against the preserver's term; none of it is done here. Examples that
    stay although what is deleted belongs to them (`ids.resolve`) are the destroyer's alone.

    Args:
      tx: optax transformation; that of the training, as a rule.
      alpha: share of the preserver's part, in [0, 1].
      form: what is compared, 'response': the predictions, by the task's divergence; 'feature': the
        outputs of `layers`, by the sum of squared differences.
      layers: names of outputs; `None` is all 'layer_0', 'layer_1', ..., see `models.graph`.
      num_epochs: passes over forget and retain data, shuffled together.
      batch_size: examples per step.

    Returns:
      An unlearner that needs forget and retain data, no labels of forget data are read. Cost: that
      of training, and two more passes of each batch.

    Raises:
      ValueError: for a value out of range.

    References:
      Sinha, Mandal, Kankanhalli, "Distill to Delete: Unlearning in Graph Networks with Knowledge
      Distillation", 2023 (arXiv 2309.16173).
    """
    checks.share(alpha=alpha)
    checks.one_of(form=(form, FORMS))
    if layers is not None:
        checks.not_text(layers=layers)
    term = objectives.divergence if form == "response" else lambda t: layer_distance(t, layers)
    objective = objectives.combine(
        retain=[(alpha, term("original"))],
        forget=[(1 - alpha, term("incompetent"))],
        train=True,
    )
    taught = descend(
        objective,
        tx,
        over="union",
        num_epochs=num_epochs,
        batch_size=batch_size,
        teachers={"original": original_model, "incompetent": incompetent_model},
        labels=False,
    )
    student = chain(reinitialise(), taught)

    def update(rng, task, variables, memory, request: Request):
        request = request._replace(retain=without_forgotten(request))
        return student.update(rng, task, variables, memory, request)

    return student._replace(update=update)


def without_forgotten(request: Request) -> Data:
    """The retain set in which examples of the forget set, too, have weight 0."""
    retain = request.retain
    both = jnp.isin(ids.of(retain, "the retain set"), ids.of(request.forget, "the forget set"))
    return {**retain, "weight": data_lib.weights(retain) * ~both}


def layer_distance(teacher: str, layers: Sequence[str] | None = None) -> objectives.Term:
    """Squared Euclidean distance of several outputs to a teacher's, summed.

    Args:
      teacher: its name.
      layers: names of outputs, `None` is `layer_names` of them.
    """

    def term(task, outputs, batch, teachers):
        del task, batch
        names = layer_names(outputs) if layers is None else layers
        squares = [(outputs[name] - teachers[teacher][name]) ** 2 for name in names]
        return sum(x.reshape(len(x), -1).sum(-1) for x in squares)

    return term


def layer_names(outputs: Outputs) -> list[str]:
    """The outputs 'layer_0', 'layer_1', ... that there are.

    Raises:
      ValueError: if there is none.
    """
    names = [f"layer_{i}" for i in range(len(outputs))]
    found = [name for name in names if name in outputs]
    if not found:
        raise ValueError(f"the model must return 'layer_0', ..., it returns {sorted(outputs)}")
    return found
