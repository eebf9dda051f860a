"""SISA: shards that train by themselves, slice after slice, so that deleting retrains only a part.

Bourtoule et al., "Machine Unlearning", IEEE S&P 2021 (arXiv 1912.03817).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, language, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import ids


class SISAMemory(NamedTuple):
    """What a shard needs to go back.

    Attributes:
      start: variables of every shard before its first slice, leaves `[S, ...]`.
      checkpoints: variables after every slice, leaves `[S, R, ...]`.
      index: `[N]`, id of each training example.
      shard, slice: `[N]`, where it was put.
      active: `[N]`, 1 until it is forgotten.
      rng: key of the training of all slices; with it a deletion gives the very model that training
        without the deleted examples would have given.
    """

    start: Variables
    checkpoints: Variables
    index: Array
    shard: Array
    slice: Array
    active: Array
    rng: Array


def sisa(
    tx: optax.GradientTransformation,
    *,
    num_shards: int = 3,
    num_slices: int = 3,
    num_epochs: int = 5,
    batch_size: int = 64,
) -> Unlearner:
    """Sharded, isolated, sliced, aggregated training; exact deletion.

    `init` splits the training data at random into shards and each shard into slices, and trains one
    model per shard: `num_epochs` on slice 1, then on slices 1 and 2, and so on, keeping a
    checkpoint after each. `update` takes every shard back to the checkpoint before the first slice
    that holds a forgotten example and trains on from there without it; other shards stay as they
    are. The served model averages the shards' probabilities.

    The model it was given is not used: the ensemble is deployed in its place.

    Args:
      tx: optax transformation, afresh for every slice.
      num_shards: S; more are cheaper to correct and less accurate.
      num_slices: R; more cost more checkpoints.
      num_epochs: passes per slice over the data so far.
      batch_size: examples per step.

    Returns:
      An unlearner that needs the training data at `init`, then forget and retain data and labels
      (`index` may be any unique integers; it tells which examples are meant, in whatever order the
      retain set comes). Cost of a deletion: from nothing to the whole training, by where the
      examples lie; of `init`: `num_epochs (R + 1) / 2` passes; memory: `S (R + 1)` models.

    Raises:
      ValueError: for a value out of range, at `init` for more slices than examples or ids that are
        not unique, at the request for ids that are unknown or forgotten already, or a retain set
        that lacks examples which are to stay. Inside of compiled code ids cannot be checked: there
        an unknown one deletes nothing.
    """
    checks.at_least(
        1,
        num_shards=num_shards,
        num_slices=num_slices,
        num_epochs=num_epochs,
        batch_size=batch_size,
    )

    def train_shards(task: Task, data: Data, position: Array, memory: SISAMemory, first: Array):
        """All slices from `first[s]` on, shard after shard; `position` finds examples in `data`."""
        step = training.make_step(training.supervised(task), tx)

        def one_shard(args):
            number, start, checkpoints, begin = args
            members, usable = shard_members(memory, number, num_shards)

            def one_slice(variables, inputs):
                order, kept = inputs

                def train(variables):
                    seen = usable & (memory.slice[members] <= order)
                    state, _ = training.run_epochs(
                        step,
                        training.init_state(variables, tx),
                        data,
                        jnp.where(seen, position[members], -1),
                        jax.random.fold_in(jax.random.fold_in(memory.rng, number), order),
                        num_epochs=num_epochs,
                        batch_size=min(batch_size, members.shape[0]),
                    )
                    return training.deploy(state)

                # A conditional under lax.map runs one branch only: what is kept costs nothing.
                variables = jax.lax.cond(order >= begin, train, lambda _: kept, variables)
                return variables, variables

            return jax.lax.scan(one_slice, start, (jnp.arange(num_slices), checkpoints))[1]

        shards = (jnp.arange(num_shards), memory.start, memory.checkpoints, first)
        return memory._replace(checkpoints=jax.lax.map(one_shard, shards))

    def init(rng, task, variables, data):
        kept = training.carried(task, data, variables)
        n = data_lib.num_examples(data)
        assign_rng, start_rng, train_rng = jax.random.split(rng, 3)
        shard, slice_ = partition(assign_rng, n, num_shards, num_slices)
        start = jax.lax.map(
            lambda key: training.init_variables(task, data, key, kept),
            jax.random.split(start_rng, num_shards),
        )
        blank = jax.tree.map(lambda x: jnp.repeat(x[:, None], num_slices, axis=1), start)
        index = ids.of(data, "the training data")
        memory = SISAMemory(start, blank, index, shard, slice_, jnp.ones(n), train_rng)
        first = jnp.zeros(num_shards, jnp.int32)
        memory = train_shards(task, data, jnp.arange(n), memory, first)
        return _last(memory), memory

    def update(rng, task, variables, memory, request: Request):
        del rng, variables
        gone, position = ids.resolve(memory.index, memory.active, request)
        shard = jnp.where(gone, memory.shard, num_shards)  # out of bounds: dropped
        first = jnp.full(num_shards, num_slices).at[shard].min(memory.slice)
        memory = memory._replace(active=jnp.where(gone, 0.0, memory.active))
        memory = train_shards(task, request.retain, position, memory, first)
        return _last(memory), memory

    return Unlearner(
        init, update, frozenset({"train", "forget", "retain", "inputs", "labels"}), serve=averaged
    )


def partition(
    rng: Array, num_examples: int, num_shards: int, num_slices: int
) -> tuple[Array, Array]:
    """Shard and slice of every example, each `[N]`: random, as even as can be.

    Raises:
      ValueError: for more slices than examples.
    """
    if num_shards * num_slices > num_examples:
        raise ValueError(
            f"num_shards * num_slices must be at most the {num_examples} training examples, got "
            f"{num_shards} * {num_slices}"
        )
    place = jax.random.permutation(rng, num_examples)
    size = -(-num_examples // num_shards)
    return place % num_shards, (place // num_shards) * num_slices // size


def shard_members(memory, number: Array, num_shards: int) -> tuple[Array, Array]:
    """Positions of a shard's examples in the training data, padded by -1, and which may be used."""
    size = -(-memory.shard.shape[0] // num_shards)
    members = jnp.nonzero(memory.shard == number, size=size, fill_value=-1)[0]
    return members, (members >= 0) & (memory.active[members] > 0)


def averaged(task: Task) -> Task:
    """The task of an ensemble: variables with a leading axis of models, mean probabilities.

    `features` are the mean of the models'. Sequences are continued without a cache.
    """

    def apply(variables, batch, rng, train):
        if train:
            raise ValueError("an ensemble is served, not trained: train must be False")

        def of_one(model):
            outputs, _ = task.apply(model, batch, rng, False)
            tasks.num_classes(outputs)
            return outputs

        outputs = jax.vmap(of_one)(variables)
        log_probs = jax.nn.log_softmax(outputs["logits"])
        mean = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(log_probs.shape[0])
        others = (k for k in outputs if k != "logits" and not k.startswith(language.CACHE))
        rest = {k: outputs[k].mean(0) for k in others}
        return {**rest, "logits": mean}, variables

    return task._replace(apply=apply)


def _last(memory: SISAMemory) -> Variables:
    return jax.tree.map(lambda x: x[:, -1], memory.checkpoints)
