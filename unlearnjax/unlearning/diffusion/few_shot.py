"""Erasure by a few images: the text encoder unlearns what a concept's name means.

Fuchi and Takagi, "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning",
BMVC 2024 (arXiv 2405.07288).
"""

import re
from collections.abc import Sequence

import jax

from unlearnjax import checks, trees
from unlearnjax import data as data_lib
from unlearnjax.data import captions
from unlearnjax.diffusion import Process
from unlearnjax.types import Array, Batch, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.confined import confined
from unlearnjax.unlearning.descend import Transform, descend
from unlearnjax.unlearning.diffusion import concepts, conditions

PARTS = ("mlp-final-attn", "mlp-only", "attn-only", "mlp-attn", "all")


def few_shot_erasure(
    tx: Transform,
    process: Process,
    *,
    part: str = "mlp-final-attn",
    encoder: str = "text_encoder",
    num_images: int = 4,
    num_steps: int = 10,
    batch_size: int = 2,
    record: Sequence[str] = (),
) -> Unlearner:
    """Raises the task's loss on a few images of a concept, by the text encoder alone.

    In evaluation mode, no condition dropped, each image in each step under one of its `captions`,
    if it has any, drawn anew; as in all published templates, under those that name the concept
    alone, where the forget set has such in `alone.condition` and `alone.captions`: up the slope of
    'a three in neon style' what three means were lost, too. There is neither a bound nor a term for
    what is to be kept: the name drifts to something else, and the few steps are all that holds the
    rest; watch it by `record`.

    In the authors' code the flag that freezes is misspelt (`require_grad`), so that all of the text
    encoder moves, embeddings and norms, too ('all' here), and not what the paper says (the
    default). Published: Adam 1e-5, (0.9, 0.98), eps 1e-6, decay 1e-8, four or so images, 4 to 5
    epochs in batches of 2. The variant that takes noise for images is left out.

    Args:
      tx: optax transformation, or what makes one.
      process: the task's, which reads prompts.
      part: of the text encoder: 'mlp-final-attn': all MLPs and the last attention; 'mlp-only',
        'attn-only', 'mlp-attn': all of these; 'all': everything.
      encoder: its name, above `layer_0.attention`, `layer_0.mlp_in`, `layer_0.mlp_out` and so on.
      num_images: that are drawn of the forget set, once per request; fewer if it has fewer.
      num_steps: updates.
      batch_size: images per step.
      record: see `descend`.

    Returns:
      An unlearner that needs the images of forget data and their prompts. Cost: per step one
      gradient.

    Raises:
      ValueError: for a value out of range, and at the request for no image, an unknown or empty
        prompt, or a model without such an encoder.
    """
    concepts.validate_prompts(process)
    checks.one_of(part=(part, PARTS))
    checks.name(encoder=encoder)
    checks.whole(num_images=num_images)
    checks.at_least(1, num_images=num_images)
    loop = descend(
        objectives.combine(forget=[(-1.0, objectives.task_loss)], prepare=_captioned),
        tx,
        over="forget",
        num_steps=num_steps,
        batch_size=batch_size,
        record=record,
        labels=False,
    )

    def update(rng, task, variables, memory, request: Request):
        request = conditions.alone(request)
        number = conditions.forgotten(request, process).shape[0]
        choice_rng, loop_rng = jax.random.split(rng)
        chosen = jax.random.permutation(choice_rng, number)[:num_images]
        request = request._replace(forget=data_lib.take(request.forget, chosen))
        inner = confined(loop, moving(variables["params"], encoder, part))
        return inner.update(loop_rng, task, variables, memory, request)

    return loop._replace(update=update)


def moving(params: PyTree, encoder: str, part: str) -> list[str]:
    """Names of the parameters that `few_shot_erasure` moves.

    Raises:
      ValueError: for an encoder that is none.
    """
    names = [name for name in trees.names(params) if name.startswith(f"{encoder}.")]
    layer = re.compile(r"layer_(\d+)\.(attention|mlp)(?:_in|_out)?(?:\.|$)")
    found = [layer.match(name.removeprefix(f"{encoder}.")) for name in names]
    kinds = [(int(match[1]), match[2]) if match else (-1, "") for match in found]
    last = max((place for place, _ in kinds), default=-1)
    if last < 0:
        known = sorted({name.partition(".")[0] for name in trees.names(params)})
        raise ValueError(
            f"encoder must name what holds 'layer_0.attention' and so on, of {known}, got "
            f"{encoder!r}{checks.near([encoder], known)}"
        )
    moves = {
        "mlp-final-attn": lambda place, kind: kind == "mlp" or (place == last and kind),
        "mlp-only": lambda place, kind: kind == "mlp",
        "attn-only": lambda place, kind: kind == "attention",
        "mlp-attn": lambda place, kind: kind,
        "all": lambda place, kind: True,
    }[part]
    return [name for name, kind in zip(names, kinds, strict=True) if moves(*kind)]


def _captioned(task: Task, variables: Variables, teachers, batch: Batch, rng: Array) -> Batch:
    del task, variables, teachers
    return jax.vmap(captions.paraphrased)(conditions.keys(batch, rng), batch)
