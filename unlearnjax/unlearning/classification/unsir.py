"""UNSIR: unlearn whole classes by noise that says what they are not.

Tarun et al., "Fast Yet Effective Machine Unlearning", TNNLS 2023 (arXiv 2111.08947).
"""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, Request, Task, Unlearner, Variables
from unlearnjax.unlearning.descend import Transform, descend, init_nothing, resolve


def unsir(
    tx: Transform,
    *,
    repair_tx: Transform | None = None,
    num_noise: int = 256,
    repeats: int = 20,
    noise_steps: int = 40,
    noise_learning_rate: float = 0.1,
    noise_decay: float = 0.1,
    batch_size: int = 256,
    retain_fraction: float = 0.2,
) -> Unlearner:
    """UNSIR: impairs with noise that maximises the loss of the forgotten classes, then repairs.

    Forgotten are the classes that the retain set does not hold. Inputs with their labels are
    learned that maximise the loss, see `error_maximising_noise`. One epoch on these, each
    `repeats` times, shuffled with a share of the retain set impairs, every example weighing alike;
    one on the same share repairs. All in training mode. Defaults are the authors' for one class of
    CIFAR-10, except that the share is drawn, not the first of every class, and that the running
    statistics do not see the search for noise. Of several classes the authors learn `num_noise`
    inputs each, by themselves, and label all of them 0; ours are in one batch, labelled as they
    were learned. Where no class is missing this is fine-tuning on the share.

    Args:
      tx: optax transformation to impair with; Adam 0.02 in the authors' code.
      repair_tx: to repair with; `None` is `tx` with updates half as large, as in the authors' code.
      num_noise: inputs to learn, shared out among the forgotten classes in turn.
      repeats: how often each is taken.
      noise_steps, noise_learning_rate, noise_decay: of the noise.
      batch_size: examples per step.
      retain_fraction: share of the retain set used to impair and to repair, in (0, 1].

    Returns:
      An unlearner that needs retain data and labels; for whole classes only. Cost: `noise_steps`
      steps on `num_noise` inputs, one pass over `repeats * num_noise` inputs, two over the share.

    Raises:
      ValueError: for a value out of range, at the request for inputs that are not floating-point.
    """
    checks.at_least(1, num_noise=num_noise, repeats=repeats, noise_steps=noise_steps)
    checks.at_least(0, noise_decay=noise_decay)
    checks.positive(noise_learning_rate=noise_learning_rate)
    checks.part(retain_fraction=retain_fraction)
    options = {"num_epochs": 1, "batch_size": batch_size}
    impairing = descend(_supervised, tx, over="union", **options)
    repairing = descend(_supervised, repair_tx or _halved(tx), over="retain", **options)

    def update(rng, task, variables, memory, request: Request):
        checks.floating(inputs=request.retain["inputs"])
        noise_rng, share_rng, impair_rng, repair_rng = jax.random.split(rng, 4)
        noise = error_maximising_noise(
            noise_rng,
            task,
            variables,
            request.retain,
            num_noise,
            num_steps=noise_steps,
            learning_rate=noise_learning_rate,
            decay=noise_decay,
        )
        noise = {name: jnp.concatenate([value] * repeats) for name, value in noise.items()}
        if "index" in request.retain:  # ids that no example has
            noise["index"] = -1 - jnp.arange(num_noise * repeats)
        n = data_lib.num_examples(request.retain)
        kept = jax.random.permutation(share_rng, n)[: max(1, round(retain_fraction * n))]
        share = data_lib.take(request.retain, kept)
        variables, _ = impairing.update(impair_rng, task, variables, (), Request(noise, share))
        variables, _ = repairing.update(repair_rng, task, variables, (), Request(None, share))
        return variables, memory

    return Unlearner(init_nothing, update, frozenset({"retain", "inputs", "labels"}))


def error_maximising_noise(
    rng: Array,
    task: Task,
    variables: Variables,
    retain: Data,
    num_noise: int,
    *,
    num_steps: int,
    learning_rate: float,
    decay: float,
) -> Data:
    """Inputs `[M, ...]` with labels of the classes that `retain` lacks, on which the loss is high.

    Adam minimises `mean over inputs of decay * |x|^2 - loss(x, label)` from standard normal noise,
    the model fixed and in training mode.

    Returns:
      'inputs', 'targets' and 'weight', all one, or all 0 where no class is missing.
    """
    num_classes = tasks.num_classes(training.output_shapes(task, variables, retain))
    absent = jnp.bincount(retain["targets"], data_lib.weights(retain), length=num_classes) == 0
    # How many are absent is data, so that shapes may not depend on it: those come first, and take
    # turns.
    turn = jnp.arange(num_noise) % jnp.maximum(absent.sum(), 1)
    targets = jnp.argsort(~absent, stable=True)[turn].astype(retain["targets"].dtype)
    tx = optax.adam(learning_rate)
    init_rng, rng = jax.random.split(rng)
    inputs = jax.random.normal(init_rng, (num_noise, *retain["inputs"].shape[1:]))

    def loss(inputs, key):
        batch = {"inputs": inputs, "targets": targets, "index": -1 - jnp.arange(num_noise)}
        batch = tasks.drawn(task, batch)
        outputs, _ = task.apply(variables, batch, key, True)
        return decay * jnp.sum(inputs**2) / num_noise - jnp.mean(task.loss(outputs, batch))

    def step(carry, key):
        inputs, state = carry
        updates, state = tx.update(jax.grad(loss)(inputs, key), state)
        return (optax.apply_updates(inputs, updates), state), None

    keys = jax.random.split(rng, num_steps)
    (inputs, _), _ = jax.lax.scan(step, (inputs, tx.init(inputs)), keys)
    weight = jnp.full(num_noise, absent.any(), jnp.float32)
    return {"inputs": inputs, "targets": targets, "weight": weight}


def _supervised(task: Task, teachers):
    """The objective of plain training: the mean over all examples of a step."""
    del teachers
    return training.supervised(task)


def _halved(tx: Transform) -> Transform:
    return lambda *request: optax.chain(resolve(tx, *request), optax.scale(0.5))
