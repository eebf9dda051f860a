"""Sparsity makes unlearning easier: L1-sparse fine-tuning, and pruning before any method.

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023 (arXiv 2304.04934).
"""

import math

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import transforms
from unlearnjax.unlearning.chain import chain
from unlearnjax.unlearning.descend import init_nothing
from unlearnjax.unlearning.finetune import finetune

SCORES = ("magnitude", "synflow")


def l1_sparse(
    tx: optax.GradientTransformation,
    *,
    gamma: float = 5e-4,
    num_epochs: int = 10,
    batch_size: int = 128,
) -> Unlearner:
    """Fine-tunes on the retain set with an L1 penalty that falls from epoch to epoch.

    In epoch e = 0, 1, ... `mean loss + gamma (1 - e / num_epochs) sum |theta|`, over all
    parameters, biases and norms too, as in the published code.

    Args:
      tx: optax transformation; published is SGD with momentum 0.9 and weight decay 5e-4.
      gamma: penalty coefficient in the first epoch, >= 0.
      num_epochs: passes over the retain set.
      batch_size: examples per step.

    Returns:
      An unlearner that needs retain data and labels.

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(0, gamma=gamma)

    def with_penalty(rng, task: Task, variables: Variables, request: Request):
        del rng, task, variables
        n = data_lib.num_examples(request.retain)
        steps = data_lib.steps_per_epoch(n, min(batch_size, n))
        schedule = lambda count: gamma * (1 - count // steps / num_epochs)
        return optax.chain(transforms.add_l1(schedule), tx)

    return finetune(with_penalty, num_epochs=num_epochs, batch_size=batch_size)


def prune(sparsity: float = 0.95, *, score: str = "magnitude", rounds: int = 100) -> Unlearner:
    """Sets the share `sparsity` of the weights with the lowest scores to zero, over all layers.

    Weights are parameters with two axes or more (published: those of convolutions alone); biases
    and norms are kept. Compose it: `chain(prune(0.95), finetune(keep_zeros(tx)))`. The published
    code prunes at the time of training, before it is known what will be forgotten, and trains on:
    once, `iterative_prune(per_round=sparsity)` with rewinding, or by SynFlow before the first step.

    Args:
      sparsity: share of the weights to remove, in [0, 1).
      score: 'magnitude' (one shot) or 'synflow' (data-free: `theta * d R / d theta` with R the sum
        of the outputs of the network with absolute weights on an input of ones, in `rounds` rounds
        of exponentially growing sparsity; Tanaka et al., NeurIPS 2020).
      rounds: for 'synflow'.

    Returns:
      An unlearner that needs the retain set, of which it reads the shape of one example.

    Raises:
      ValueError: for a value out of range.
    """
    _validate_sparsity(sparsity)
    checks.one_of(score=(score, SCORES))

    def update(rng, task, variables, memory, request: Request):
        del rng
        params = variables["params"]
        if score == "magnitude":
            mask = _keep_largest(jax.tree.map(jnp.abs, params), 1 - sparsity)
        else:
            example = data_lib.take(request.retain, jnp.zeros(1, jnp.int32))
            mask = synflow_mask(task, variables, example, sparsity, rounds)
        return {**variables, "params": _masked(params, mask)}, memory

    return Unlearner(init_nothing, update, frozenset({"retain", "inputs"}))


def iterative_prune(
    tx: optax.GradientTransformation,
    *,
    sparsity: float = 0.9,
    per_round: float = 0.2,
    num_epochs: int = 5,
    rewind_epochs: int = 1,
    batch_size: int = 64,
) -> Unlearner:
    """Iterative magnitude pruning with rewinding, at the time of training.

    `init` trains a fresh model for `rewind_epochs` and remembers it; then, round after round,
    trains from there for `num_epochs`, removes the share `per_round` of the remaining weights that
    are smallest, over all layers, and rewinds the others; at the end it trains what is left once
    more. The pruned model is deployed in the place of the given one; `update` does nothing:
    `chain(iterative_prune(tx), finetune(keep_zeros(tx)))` unlearns from it.

    The published code does the same ("rewind_lt"), but prunes convolutions alone, keeps the
    optimizer where the first round goes on from the early model, and lets schedules of the learning
    rate resume there in later rounds.

    Args:
      tx: optax transformation, afresh for every round.
      sparsity: share of the weights removed in the end, in [0, 1).
      per_round: share of the remaining weights removed per round, in (0, 1).
      num_epochs, rewind_epochs, batch_size: of the training.

    Returns:
      An unlearner that needs the training data at `init`. Cost there: `rewind_epochs` and, per
      round and once more, `num_epochs` passes.

    Raises:
      ValueError: for a value out of range.

    References:
      Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020.
    """
    _validate_sparsity(sparsity)
    checks.open_share(per_round=per_round)
    checks.at_least(1, num_epochs=num_epochs, rewind_epochs=rewind_epochs, batch_size=batch_size)
    num_rounds = math.ceil(math.log(1 - sparsity) / math.log(1 - per_round) - 1e-9)

    def init(rng, task: Task, variables, data):
        kept = training.carried(task, data, variables)
        n = data_lib.num_examples(data)
        start_rng, early_rng, rng = jax.random.split(rng, 3)

        def train(variables, mask, rng, num_epochs):
            masked = transforms.masked(tx, mask)
            pruned = _masked(variables["params"], mask)
            state, _ = training.run_epochs(
                training.make_step(training.supervised(task), masked),
                training.init_state({**variables, "params": pruned}, masked),
                data,
                jnp.arange(n),
                rng,
                num_epochs=num_epochs,
                batch_size=min(batch_size, n),
            )
            return state.variables

        fresh = training.init_variables(task, data, start_rng, kept)
        everything = _everything(fresh["params"])
        early = train(fresh, everything, early_rng, rewind_epochs)

        def one_round(mask, number):
            trained = train(early, mask, jax.random.fold_in(rng, number), num_epochs)
            keep = jnp.maximum((1 - per_round) ** (number + 1.0), 1 - sparsity)
            magnitudes = jax.tree.map(jnp.abs, trained["params"])
            return _keep_largest(magnitudes, keep), None

        mask, _ = jax.lax.scan(one_round, everything, jnp.arange(num_rounds))
        return train(early, mask, jax.random.fold_in(rng, num_rounds), num_epochs), ()

    def update(rng, task, variables, memory, request: Request):
        del rng, task, request
        return variables, memory

    return Unlearner(init, update, frozenset({"train", "inputs", "labels"}))


def iterative_prune_finetune(
    tx: optax.GradientTransformation,
    *,
    sparsity: float = 0.9,
    per_round: float = 0.2,
    prune_epochs: int = 5,
    rewind_epochs: int = 1,
    prune_tx: optax.GradientTransformation | None = None,
    num_epochs: int = 10,
    batch_size: int = 128,
) -> Unlearner:
    """Trains a pruned model beforehand, then fine-tunes it: `chain(iterative_prune(...), ...)`.

    Args:
      tx, num_epochs, batch_size: of `finetune`.
      sparsity, per_round, prune_epochs, rewind_epochs: of `iterative_prune`.
      prune_tx: its transformation; `None` is `tx`.

    Returns:
      An unlearner that needs the training data at `init`, then retain data and labels.
    """
    pruned = iterative_prune(
        prune_tx or tx,
        sparsity=sparsity,
        per_round=per_round,
        num_epochs=prune_epochs,
        rewind_epochs=rewind_epochs,
        batch_size=batch_size,
    )
    return chain(pruned, finetune(keep_zeros(tx), num_epochs=num_epochs, batch_size=batch_size))


def prune_finetune(
    tx: optax.GradientTransformation,
    *,
    sparsity: float = 0.95,
    score: str = "magnitude",
    num_epochs: int = 10,
    batch_size: int = 128,
) -> Unlearner:
    """Prune first, then fine-tune what is left: `chain(prune(...), finetune(keep_zeros(tx)))`.

    Args:
      tx, num_epochs, batch_size: of `finetune`.
      sparsity, score: of `prune`.

    Returns:
      An unlearner that needs retain data and labels.
    """
    return chain(
        prune(sparsity, score=score),
        finetune(keep_zeros(tx), num_epochs=num_epochs, batch_size=batch_size),
    )


def keep_zeros(tx: optax.GradientTransformation):
    """`tx` for `descend` on a pruned model: what is zero at the request stays zero."""

    def transform(rng, task, variables: Variables, request):
        del rng, task, request
        mask = jax.tree.map(
            lambda p: (p != 0).astype(jnp.float32) if p.ndim > 1 else jnp.ones(p.shape),
            variables["params"],
        )
        return transforms.masked(tx, mask)

    return transform


def synflow_mask(task: Task, variables: Variables, example, sparsity: float, rounds: int) -> PyTree:
    """0/1 tree like the parameters, see `prune`."""
    ones = {**tasks.drawn(task, example), "inputs": jnp.ones_like(example["inputs"])}
    magnitudes = jax.tree.map(jnp.abs, variables["params"])

    def flow(params):
        outputs, _ = task.apply({**variables, "params": params}, ones, None, False)
        return tasks.logits(outputs).sum()

    def one_round(mask, number):
        params = _masked(magnitudes, mask)
        scores = jax.tree.map(lambda p, g: p * g, params, jax.grad(flow)(params))
        keep = (1 - sparsity) ** ((number + 1) / rounds)
        return _keep_largest(scores, keep), None

    return jax.lax.scan(one_round, _everything(magnitudes), jnp.arange(rounds))[0]


def sparsity_of(params: PyTree) -> jax.Array:
    """Share of zeros among the weights (parameters with two axes or more).

    Examples:
      >>> float(sparsity_of({"kernel": jnp.array([[0.0, 1.0], [2.0, 0.0]]), "bias": jnp.zeros(2)}))
      0.5
    """
    weights = [p for p in jax.tree.leaves(params) if p.ndim > 1]
    return sum(jnp.sum(p == 0) for p in weights) / sum(p.size for p in weights)


def _validate_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")


def _masked(params: PyTree, mask: PyTree) -> PyTree:
    """Parameters where the mask is 1, else 0, in their own types."""
    return jax.tree.map(lambda p, m: p * m.astype(p.dtype), params, mask)


def _everything(params: PyTree) -> PyTree:
    """The mask of all parameters."""
    return jax.tree.map(lambda p: jnp.ones(p.shape), params)


def _keep_largest(scores: PyTree, keep) -> PyTree:
    """Mask of the share `keep` (may be traced) of the weights with the largest scores."""
    leaves, treedef = jax.tree.flatten(scores)
    masks = iter(transforms.top_share([s for s in leaves if s.ndim > 1], keep))
    return treedef.unflatten([next(masks) if s.ndim > 1 else jnp.ones(s.shape) for s in leaves])
