"""Methods that unlearn whole classes by a class that is not there, or by noise that is."""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend, init_nothing


def boundary_expand(tx: Transform, *, num_epochs: int = 10, batch_size: int = 64) -> Unlearner:
    """Boundary expand: trains the forget set into one class more, then drops that class.

    The extra logit is a linear function of the penultimate features, initialised at zero. In
    evaluation mode.

    Args:
      tx: optax transformation.
      num_epochs: passes over the forget set.
      batch_size: examples per step.

    Returns:
      An unlearner that needs forget data only, no labels.

    References:
      Chen et al., "Boundary Unlearning", CVPR 2023.
    """
    objective = objectives.combine(forget=[(1.0, objectives.task_loss)])
    loop = descend(
        objective, tx, over="forget", num_epochs=num_epochs, batch_size=batch_size, labels=False
    )

    def update(rng, task, variables, memory, request: Request):
        outputs = training.output_shapes(task, variables, request.forget)
        num_classes, width = outputs["logits"].shape[-1], tasks.features(outputs).shape[-1]
        extra = {"kernel": jnp.zeros((width, 1)), "bias": jnp.zeros(1)}
        wider = {**variables, "params": {"model": variables["params"], "extra": extra}}
        n = data_lib.num_examples(request.forget)
        targets = jnp.full(n, num_classes, jnp.int32)
        request = Request({**request.forget, "targets": targets})
        wider, memory = loop.update(rng, _with_extra_logit(task), wider, memory, request)
        return {**wider, "params": wider["params"]["model"]}, memory

    return loop._replace(update=update)


def unsir(
    tx: Transform,
    *,
    repair_tx: Transform | None = None,
    num_noise: int = 64,
    noise_steps: int = 40,
    noise_learning_rate: float = 0.1,
    noise_decay: float = 0.1,
    batch_size: int = 128,
    retain_fraction: float = 0.3,
) -> Unlearner:
    """UNSIR: impairs with noise that maximises the loss of the forgotten classes, then repairs.

    Forgotten are the classes that the retain set does not hold. For each, `num_noise` inputs are
    learned by Adam to maximise the loss with that class as label, less `noise_decay` times their
    squared norm. One epoch on noise and a share of the retain set impairs, then one on the
    retain set repairs, both in training mode.

    Args:
      tx: optax transformation to impair with; SGD 0.02 in the paper.
      repair_tx: to repair with, SGD 0.01 in the paper; `None` is `tx`.
      num_noise: inputs per class.
      noise_steps, noise_learning_rate, noise_decay: of the noise.
      batch_size: examples per step.
      retain_fraction: share of the retain set used to impair, in (0, 1].

    Returns:
      An unlearner that needs retain data and labels; for whole classes only.

    Raises:
      ValueError: for a value out of range.

    References:
      Tarun et al., "Fast Yet Effective Machine Unlearning", TNNLS 2023 (arXiv 2111.08947).
    """
    checks.at_least(1, num_noise=num_noise, noise_steps=noise_steps)
    both = objectives.combine(
        forget=[(1.0, objectives.task_loss)], retain=[(1.0, objectives.task_loss)], train=True
    )
    impairing = descend(
        both,
        tx,
        over="union",
        num_epochs=1,
        batch_size=batch_size,
        retain_fraction=retain_fraction,
    )
    repairing = descend(both, repair_tx or tx, over="retain", num_epochs=1, batch_size=batch_size)

    def update(rng, task, variables, memory, request: Request):
        noise_rng, impair_rng, repair_rng = jax.random.split(rng, 3)
        noise = _error_maximising_noise(noise_rng, task, variables, request.retain)
        weight = jnp.ones(data_lib.num_examples(request.retain))
        noisy = Request(noise, {"weight": weight, **request.retain})
        variables, _ = impairing.update(impair_rng, task, variables, (), noisy)
        variables, _ = repairing.update(repair_rng, task, variables, (), request)
        return variables, memory

    def _error_maximising_noise(rng: Array, task: Task, variables: Variables, retain):
        logits = training.output_shapes(task, variables, retain)["logits"]
        classes = jnp.arange(logits.shape[-1])
        targets = jnp.repeat(classes, num_noise)
        absent = ~jnp.isin(targets, retain["targets"])
        shape = (len(targets), *retain["inputs"].shape[1:])
        tx = optax.adam(noise_learning_rate)

        def loss(inputs):
            batch = {"inputs": inputs, "targets": targets}
            outputs, _ = task.apply(variables, batch, None, False)
            return jnp.sum(-task.loss(outputs, batch)) + noise_decay * jnp.sum(inputs**2)

        def step(carry, _):
            inputs, state = carry
            updates, state = tx.update(jax.grad(loss)(inputs), state)
            return (optax.apply_updates(inputs, updates), state), None

        inputs = jax.random.normal(rng, shape)
        (inputs, _), _ = jax.lax.scan(step, (inputs, tx.init(inputs)), length=noise_steps)
        # Classes still retained have no noise: weight 0.
        return {"inputs": inputs, "targets": targets, "weight": absent.astype(jnp.float32)}

    return Unlearner(init_nothing, update, frozenset({"retain", "labels"}))


def _with_extra_logit(task: Task) -> Task:
    """The task with one logit more, for parameters `{'model': ..., 'extra': ...}`."""

    def apply(variables, batch, rng, train):
        params = variables["params"]
        outputs, updated = task.apply({**variables, "params": params["model"]}, batch, rng, train)
        extra = outputs["features"] @ params["extra"]["kernel"] + params["extra"]["bias"]
        logits = jnp.concatenate([outputs["logits"], extra], axis=-1)
        return {**outputs, "logits": logits}, {**updated, "params": params}

    return task._replace(apply=apply)
