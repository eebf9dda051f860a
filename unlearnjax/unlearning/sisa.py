"""SISA: shards that train by themselves, slice after slice, so that deleting retrains only a part.

Bourtoule et al., "Machine Unlearning", IEEE S&P 2021 (arXiv 1912.03817).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, language, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, PyTree, Request, Task, Unlearner, Variables
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
      division: what the partition keeps, see `Partition`.
    """

    start: Variables
    checkpoints: Variables
    index: Array
    shard: Array
    slice: Array
    active: Array
    rng: Array
    division: PyTree = ()


class Partition(NamedTuple):
    """How training is divided where examples are connected, as nodes of a graph are.

    Attributes:
      assign: `(rng, carried, data, num_shards) -> (shard [N], division)`, with `carried` the
        collections of `training.carried`, and `division` what `restrict` needs.
      restrict: `(carried, division, number) -> carried`: what a shard trains with. What it leaves
        out must leave no trace: a shard for which nothing of it changes is not trained again.
    """

    assign: Callable[[Array, Variables, Data, int], tuple[Array, PyTree]]
    restrict: Callable[[Variables, PyTree, Array], Variables]


def sisa(
    tx: optax.GradientTransformation,
    *,
    num_shards: int = 3,
    num_slices: int = 3,
    num_epochs: int = 5,
    batch_size: int = 64,
    partition: Partition | None = None,
) -> Unlearner:
    """Sharded, isolated, sliced, aggregated training; exact deletion.

    `init` splits the training data at random into shards and each shard into slices, and trains one
    model per shard: `num_epochs` on slice 1, then on slices 1 and 2, and so on, keeping a
    checkpoint after each. `update` takes every shard back to the checkpoint before the first slice
    that holds a forgotten example and trains on from there without it; other shards stay as they
    are. The served model averages the shards' probabilities. A shard for which the request edits a
    collection, such as its part of a graph, trains from its first slice; served are all shards with
    the whole collection.

    The model it was given is not used: the ensemble is deployed in its place.

    Args:
      tx: optax transformation, afresh for every slice.
      num_shards: S; more are cheaper to correct and less accurate.
      num_slices: R; more cost more checkpoints.
      num_epochs: passes per slice over the data so far.
      batch_size: examples per step.
      partition: what is done instead of a split at random in even shards. Where it puts the
        examples is not known beforehand: every shard goes through as many steps as all need.

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
            members, usable = shard_members(memory, number, 1 if partition else num_shards)

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

    def divided(rng: Array, carried: Variables, data: Data):
        """Shard and slice of every example, and the division."""
        n = data_lib.num_examples(data)
        if partition is None:
            return *evenly(rng, n, num_shards, num_slices), ()
        of_shard, of_slice = jax.random.split(rng)
        shard, division = partition.assign(of_shard, carried, data, num_shards)
        return shard, evenly(of_slice, n, 1, num_slices)[1], division

    def restricted(carried: Variables, division) -> Variables:
        """What each shard trains with, `[S, ...]`."""
        if partition is None:
            return _repeated(carried, num_shards)
        own = lambda number: partition.restrict(carried, division, number)
        return jax.vmap(own)(jnp.arange(num_shards))

    def with_collections(memory: SISAMemory, carried: Variables):
        """The memory with other collections of its shards, and for which they are others, `[S]`."""
        pairs = zip(
            jax.tree.leaves({name: memory.start[name] for name in carried}),
            jax.tree.leaves(carried),
            strict=True,
        )
        others = [(a != b).reshape(num_shards, -1).any(1) for a, b in pairs]
        start = {**memory.start, **carried}
        by_slice = jax.tree.map(lambda x: jnp.repeat(x[:, None], num_slices, axis=1), carried)
        memory = memory._replace(start=start, checkpoints={**memory.checkpoints, **by_slice})
        return memory, jnp.stack(others).any(0)

    def deployed(memory: SISAMemory, carried: Variables) -> Variables:
        """The shards' last models, with all of what they carry."""
        last = jax.tree.map(lambda x: x[:, -1], memory.checkpoints)
        return {**last, **_repeated(carried, num_shards)}

    def init(rng, task, variables, data):
        kept = training.carried(task, data, variables)
        n = data_lib.num_examples(data)
        assign_rng, start_rng, train_rng = jax.random.split(rng, 3)
        shard, slice_, division = divided(assign_rng, kept, data)
        start = jax.lax.map(
            lambda key: training.init_variables(task, data, key, kept),
            jax.random.split(start_rng, num_shards),
        )
        start |= restricted(kept, division)
        blank = jax.tree.map(lambda x: jnp.repeat(x[:, None], num_slices, axis=1), start)
        index = ids.of(data, "the training data")
        memory = SISAMemory(start, blank, index, shard, slice_, jnp.ones(n), train_rng, division)
        first = jnp.zeros(num_shards, jnp.int32)
        memory = train_shards(task, data, jnp.arange(n), memory, first)
        return deployed(memory, kept), memory

    def update(rng, task, variables, memory, request: Request):
        del rng, variables
        gone, position = ids.resolve(memory.index, memory.active, request)
        shard = jnp.where(gone, memory.shard, num_shards)  # out of bounds: dropped
        first = jnp.full(num_shards, num_slices).at[shard].min(memory.slice)
        memory = memory._replace(active=jnp.where(gone, 0.0, memory.active))
        edited = request.edited or {}
        if edited:
            memory, changed = with_collections(memory, restricted(edited, memory.division))
            first = jnp.where(changed, 0, first)
        memory = train_shards(task, request.retain, position, memory, first)
        return deployed(memory, edited), memory

    return Unlearner(
        init, update, frozenset({"train", "forget", "retain", "inputs", "labels"}), serve=averaged
    )


def evenly(rng: Array, num_examples: int, num_shards: int, num_slices: int) -> tuple[Array, Array]:
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


def _repeated(tree: PyTree, number: int) -> PyTree:
    """So many of it, along a first axis."""
    return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[None], number, axis=0), tree)
