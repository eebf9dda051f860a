"""Exposure of backdoors: the clean function of a model is undone, so that a backdoor is left.

Li, Huang, Zhang, Ma, Jiang, "Expose Before You Defend", 2024 (arXiv 2410.19427). The forget set of
the request is the defender's small clean set, D; no exposure knows the trigger. A model without a
backdoor is changed by them as well: compare with such.
"""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks, training, trees
from unlearnjax import data as data_lib
from unlearnjax.types import Array, PyTree, Request, Unlearner, Variables
from unlearnjax.unlearning import objectives, transforms
from unlearnjax.unlearning.classification import relabel
from unlearnjax.unlearning.descend import Stop, Transform, Watch, descend, init_nothing, resolve


def clean_unlearning(
    tx: Transform,
    *,
    num_epochs: int = 20,
    batch_size: int = 128,
    stop_accuracy: float | None = 0.2,
    weight_decay: float = 5e-4,
    train: bool = False,
    watch: Watch | None = None,
) -> Unlearner:
    """CUL: ascends the cross-entropy on D until its accuracy is gone.

    The published code has it twice. By Adam of rate 1e-5 for 20 epochs, however much is left, batch
    statistics frozen, since a model that has been evaluated stays in evaluation mode:
    `stop_accuracy=None` here. And by SGD of rate 0.01, a tenth of it from epoch 10 and again from
    20, with momentum 0.9, in training mode, until the accuracy on D is at most 0.2. There it is
    what an epoch's steps saw on their way; here D is evaluated after every epoch, and the rate is
    what `tx` has. Both mean to clip gradients, but do so before there are any, so that none are.

    Args:
      tx: optax transformation.
      num_epochs: passes over D, at most.
      batch_size: examples per step.
      stop_accuracy: accuracy on D, in evaluation mode, at which the model stays as it is; `None`
        runs all epochs.
      weight_decay: coefficient w of the parameters that is added to the gradient, ahead of `tx`, as
        PyTorch's optimizers have it.
      train: whether batch statistics of D take the place of running ones, and move them.
      watch: what else is to be seen of the model after every epoch, see `descend`.

    Returns:
      An unlearner that needs the forget set, with labels; its memory is a `Trace` where it stops by
      the accuracy, or watches. Cost: `num_epochs` passes, and as many
      evaluations.

    Raises:
      ValueError: for a value out of range.
    """
    if stop_accuracy is not None:
        checks.share(stop_accuracy=stop_accuracy)
    checks.at_least(0, weight_decay=weight_decay)
    return descend(
        objectives.combine(forget=[(-1.0, objectives.task_loss)], train=train),
        _decayed(tx, weight_decay),
        over="forget",
        num_epochs=num_epochs,
        batch_size=batch_size,
        record=() if stop_accuracy is None else ("forget",),
        stop=None if stop_accuracy is None else below(stop_accuracy),
        watch=watch,
    )


def confusion_finetune(
    tx: Transform,
    *,
    num_epochs: int = 20,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    train: bool = False,
) -> Unlearner:
    """CFT: fits D with labels that are drawn anew in every step, uniformly over all classes.

    Published with Adam of rate 1e-4.

    Args:
      tx, num_epochs, batch_size, weight_decay, train: see `clean_unlearning`.

    Returns:
      An unlearner that needs the forget set, with labels, of which it reads the type.

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(0, weight_decay=weight_decay)
    return descend(
        objectives.combine(
            forget=[(1.0, objectives.task_loss)], train=train, prepare=relabel.any_class
        ),
        _decayed(tx, weight_decay),
        over="forget",
        num_epochs=num_epochs,
        batch_size=batch_size,
    )


def activation_prune(layer: str, *, share: float = 0.5) -> Unlearner:
    """Silences the channels of a layer that D activates least.

    A channel's activation is the mean of what the layer returns, with its sign, over examples and
    positions; the lowest `floor(share * channels)` are set to 0 by setting their parameters to 0,
    which for a convolution, a dense layer or a norm is the published mask of its outputs. Published
    are shares of 0.1 to 0.9, one after another on the same model, and by default the layer of the
    logits: a class that is silenced has the logit 0.

    Args:
      layer: dotted name of the layer, see `tasks.layer_names`.
      share: of its channels, in [0, 1].

    Returns:
      An unlearner that needs the inputs of the forget set. Cost: one pass.

    Raises:
      ValueError: for a share out of range; at the request, for no such layer, or one with a
        parameter whose last axis is not its channels.
    """
    checks.share(share=share)
    checks.name(layer=layer)

    def update(rng, task, variables, memory, request: Request):
        del rng
        name = f"hidden.{layer}"
        seen = training.outputs(tasks.capture(task, (layer,)), variables, request.forget)[name]
        weights = data_lib.weights(request.forget)
        per_example = seen.reshape(len(seen), -1, seen.shape[-1]).mean(1)
        mean = weights @ per_example / weights.sum()
        count = int(share * mean.size)
        kept = jnp.ones(mean.size).at[jnp.argsort(mean)[:count]].set(0)
        return {**variables, "params": _silenced(variables["params"], layer, kept)}, memory

    return Unlearner(init_nothing, update, frozenset({"forget", "inputs"}))


def neuron_perturbation(
    epsilon: float = 0.4,
    *,
    step_size: float = 0.2,
    num_steps: int = 1,
    where: trees.Where = None,
) -> Unlearner:
    """Scales each channel's scale and bias by up to `1 +- epsilon`, so that the loss on D rises.

    `(1 + n) * parameter`, n per channel, from uniform noise in [-epsilon, epsilon] by steps of
    `step_size * sign(gradient of the mean loss)`, each clipped to that range. Running statistics
    stay. The published code takes the steps on single batches, in training mode, keeps what the
    last batch led to, and does not clip, so that n may lie outside by a step.

    Args:
      epsilon: >= 0; published are 0.1 to 0.9.
      step_size: of a step, >= 0.
      num_steps: of ascent.
      where: what is perturbed, see `trees.chosen`. `None` is as published the batch norms, and of a
        model without any, which theirs are not, all parameters; a kernel's channels are its
        outputs.

    Returns:
      An unlearner that needs the forget set, with labels. Cost: `num_steps` passes.

    Raises:
      ValueError: for a value out of range; at the request, if `where` means nothing of the model.

    References:
      Wu and Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021.
    """
    checks.at_least(0, epsilon=epsilon, step_size=step_size)
    checks.whole(num_steps=num_steps)
    checks.at_least(1, num_steps=num_steps)

    def noise(key, leaf):
        return jax.random.uniform(key, leaf.shape[-1:], leaf.dtype, -epsilon, epsilon)

    def update(rng, task, variables, memory, request: Request):
        own = where if where is not None else of_norms(variables) or None
        noisy = tasks.adapted(task, own, noise, lambda p, n: p * (1 + n))
        based = tasks.as_base(variables)
        start_rng, loop_rng = jax.random.split(rng)
        shapes = training.init_variables(noisy, request.forget, start_rng, based)
        steps = optax.chain(optax.sign_sgd(step_size), transforms.stay_within(-epsilon, epsilon))
        ascent = descend(
            objectives.combine(forget=[(-1.0, objectives.task_loss)]),
            steps,
            over="forget",
            num_epochs=num_steps,
            batch_size=data_lib.num_examples(request.forget),
        )
        found, _ = ascent.update(loop_rng, noisy, shapes, (), request)
        return tasks.merged(noisy, found), memory

    return Unlearner(init_nothing, update, frozenset({"forget", "inputs", "labels"}))


def below(accuracy: float, part: str = "forget") -> Stop:
    """A `stop` of `descend`: the mean accuracy on a recorded part is no larger."""

    def stop(per_example, request: Request):
        weights = data_lib.weights(getattr(request, part))
        return jnp.average(per_example[part]["accuracy"], weights=weights) <= accuracy

    return stop


def of_norms(variables: Variables) -> list[str]:
    """Names of the parameters of batch norms: of layers that have running statistics."""
    owner = lambda name: name.rpartition(".")[0]
    owners = {owner(name) for name in trees.names(variables.get("batch_stats", {}))}
    return [name for name in trees.names(variables["params"]) if owner(name) in owners]


def _decayed(tx: Transform, weight_decay: float) -> Transform:
    """`tx`, of gradients to which a multiple of the parameters is added."""

    def transform(rng, task, variables, request):
        decay = optax.add_decayed_weights(weight_decay)
        return optax.chain(decay, resolve(tx, rng, task, variables, request))

    return transform


def _silenced(params: PyTree, layer: str, kept: Array) -> PyTree:
    """The parameters with those of a layer's channels that are not kept at 0."""
    leaves, treedef = jax.tree.flatten(params)
    own = trees.chosen(params, [layer], "layer")
    others = [
        f"{name} {list(leaf.shape)}"
        for name, leaf, mine in zip(trees.names(params), leaves, own, strict=True)
        if mine and leaf.shape[-1:] != kept.shape
    ]
    if others:
        raise ValueError(
            f"layer must have parameters whose last axis is its {kept.size} channels, got {layer!r}"
            f" with {others}"
        )
    pairs = zip(leaves, own, strict=True)
    return treedef.unflatten([leaf * kept.astype(leaf.dtype) if x else leaf for leaf, x in pairs])
