"""S3T: slices that each train a layer's adapter of their own, so that deleting switches layers off.

Basu Roy Chowdhury et al., "Towards Scalable Exact Machine Unlearning Using Parameter-Efficient
Fine-Tuning", ICLR 2025 (arXiv 2406.16257).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearnjax import checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import ids, sequences, transforms
from unlearnjax.unlearning.sisa import averaged, evenly, shard_members

# What the frozen model is called beside its adapters.
COLLECTION = "backbone"


class S3TMemory(NamedTuple):
    """What is kept for later deletions; S shards, B copies of each, L slices.

    Attributes:
      backbone: the frozen model that the adapters are added to.
      adapters: of every copy, leaves `[S, B, ...]`.
      alive: `[S, B]`, how many of a copy's blocks, from the first trained, are in service.
      index: `[N]`, id of each training example.
      shard, slice: `[N]`, where it was put.
      active: `[N]`, 1 until it is forgotten.
      rng: key of all training.
    """

    backbone: Variables
    adapters: PyTree
    alive: Array
    index: Array
    shard: Array
    slice: Array
    active: Array
    rng: Array


def s3t(
    tx: optax.GradientTransformation,
    *,
    num_shards: int = 1,
    num_slices: int = 4,
    budget: int = 4,
    rank: int = 16,
    num_epochs: int = 5,
    batch_size: int = 64,
    backbone: Variables | None = None,
    deletion_probability: tuple[float, ...] | None = None,
) -> Unlearner:
    """Sequence-aware sharded sliced training; exact deletion, mostly without training.

    The layers are grouped into L = `num_slices` blocks from the output down. A copy of a shard
    goes through its slices in some order: block i trains its adapters (low-rank for matrices and
    kernels, full for vectors) on the first i slices, all else frozen. Forgetting an example of the
    copy's i-th slice switches blocks i to L off: what is left never saw it. Each shard has
    `budget` copies with different orders and serves the one with the most blocks; only when all
    of its copies have lost their first block is it trained anew on what is retained. Probabilities
    are averaged over shards.

    The model it was given is not used: the ensemble is deployed in its place.

    Args:
      tx: optax transformation, afresh for every slice.
      num_shards: S.
      num_slices: L; at most the number of layers with parameters.
      budget: B, orders that are trained, see `sequences`.
      rank: of the adapters; at or above a matrix's own rank they are as free as it is.
      num_epochs: passes per block over the slices so far.
      batch_size: examples per step.
      backbone: a model that was trained on *other* data (else deletion is not exact); `None` is a
        freshly initialised one.
      deletion_probability: of every slice, if known; `None` is uniform.

    Returns:
      An unlearner that needs the training data at `init`, then forget and retain data and labels
      (`index` may be any unique integers; it tells which examples are meant, in whatever order the
      retain set comes). Cost of a deletion: none, until a shard has lost all copies; of `init`:
      `budget num_epochs (L + 1) / 2` passes; memory: `S B` sets of adapters and the backbone.

    Raises:
      ValueError: for a value out of range, at `init` for more slices than layers or examples, and
        for ids as `sisa`.
    """
    checks.at_least(
        1,
        num_shards=num_shards,
        num_slices=num_slices,
        budget=budget,
        rank=rank,
        num_epochs=num_epochs,
        batch_size=batch_size,
    )
    orders = (
        sequences.diverse(num_slices, budget)
        if deletion_probability is None
        else sequences.by_probability(deletion_probability, budget)
    )
    if orders.shape[1] != num_slices:
        raise ValueError(
            f"deletion_probability must have num_slices={num_slices} entries, got {orders.shape[1]}"
        )
    turns = jnp.asarray(np.argsort(orders, axis=1))  # [B, L]: when each slice has its turn

    def train_copy(task: Task, data: Data, position: Array, memory: S3TMemory, shard, copy):
        """The adapters of one copy, block after block."""
        members, usable = shard_members(memory, shard, num_shards)
        key = jax.random.fold_in(jax.random.fold_in(memory.rng, shard), copy)
        student = adapted(task, rank)
        start = init_adapters(student, data, jax.random.fold_in(key, num_slices))
        frozen = tasks.as_base(memory.backbone, COLLECTION)
        blocks = block_numbers(task, memory.backbone, data, num_slices)

        def one_block(adapters, number):
            own = jax.tree.map(
                lambda block, part: jax.tree.map(lambda _: block == number, part), blocks, adapters
            )
            masked = transforms.masked(tx, own)
            seen = usable & (turns[copy, memory.slice[members]] <= number)
            state, _ = training.run_epochs(
                training.make_step(training.supervised(student, train=False), masked),
                training.init_state({**frozen, "params": adapters}, masked),
                data,
                jnp.where(seen, position[members], -1),
                jax.random.fold_in(key, number),
                num_epochs=num_epochs,
                batch_size=min(batch_size, members.shape[0]),
            )
            return state.variables["params"], None

        return jax.lax.scan(one_block, start, jnp.arange(num_slices))[0]

    def train_shards(task: Task, data: Data, position: Array, memory: S3TMemory, dead: Array):
        """All copies of the dead shards; the others stay as they are."""

        def one_shard(args):
            shard, is_dead, kept = args

            def anew(_):
                return jax.lax.map(
                    lambda copy: train_copy(task, data, position, memory, shard, copy),
                    jnp.arange(budget),
                )

            # A conditional under lax.map runs one branch only: what is kept costs nothing.
            return jax.lax.cond(is_dead, anew, lambda kept: kept, kept)

        shards = (jnp.arange(num_shards), dead, memory.adapters)
        adapters = jax.lax.map(one_shard, shards)
        alive = jnp.where(dead[:, None], num_slices, memory.alive)
        return memory._replace(adapters=adapters, alive=alive)

    def deploy(task: Task, data: Data, memory: S3TMemory) -> Variables:
        """Of each shard the copy with the most blocks, merged into plain variables `[S, ...]`."""
        blocks = block_numbers(task, memory.backbone, data, num_slices)
        student = adapted(task, rank)

        def one_shard(adapters, alive):
            best = jnp.argmax(alive)
            adapters = jax.tree.map(lambda leaf: leaf[best], adapters)
            return merge(student, memory.backbone, adapters, blocks, alive[best])

        return jax.vmap(one_shard)(memory.adapters, memory.alive)

    def init(rng, task, variables, data):
        kept = training.carried(task, data, variables)
        n = data_lib.num_examples(data)
        assign_rng, start_rng, train_rng = jax.random.split(rng, 3)
        shard, slice_ = evenly(assign_rng, n, num_shards, num_slices)
        frozen = backbone or training.init_variables(task, data, start_rng, kept)
        shapes = jax.eval_shape(lambda: init_adapters(adapted(task, rank), data, train_rng))
        blank = jax.tree.map(lambda x: jnp.zeros((num_shards, budget, *x.shape), x.dtype), shapes)
        alive = jnp.zeros((num_shards, budget), jnp.int32)
        index = ids.of(data, "the training data")
        memory = S3TMemory(frozen, blank, alive, index, shard, slice_, jnp.ones(n), train_rng)
        dead = jnp.ones(num_shards, bool)
        memory = train_shards(task, data, jnp.arange(n), memory, dead)
        return deploy(task, data, memory), memory

    def update(rng, task, variables, memory, request: Request):
        del rng, variables
        gone, position = ids.resolve(memory.index, memory.active, request)
        shard = jnp.where(gone, memory.shard, num_shards)  # out of bounds: dropped
        alive = memory.alive.at[shard].min(turns[:, memory.slice].T)
        memory = memory._replace(alive=alive, active=jnp.where(gone, 0.0, memory.active))
        dead = alive.max(axis=1) == 0
        if request.edited:  # all of it was learned with what is replaced
            memory = memory._replace(backbone={**memory.backbone, **request.edited})
            dead = jnp.ones(num_shards, bool)
        memory = train_shards(task, request.retain, position, memory, dead)
        return deploy(task, request.retain, memory), memory

    needs = frozenset({"train", "forget", "retain", "inputs", "labels"})
    return Unlearner(init, update, needs, serve=averaged)


def adapted(task: Task, rank: int) -> Task:
    """The task whose parameters are adapters of a frozen model: low-rank, or full for vectors."""
    # Merged are the adapters alone: what the task itself may have frozen stays so.
    plain = task._replace(merge=None)
    return tasks.lora(plain, rank, init="normal", vectors=True, collection=COLLECTION)


def init_adapters(student: Task, data: Data, rng: Array) -> PyTree:
    """Adapters that change nothing yet."""
    return student.init(rng, tasks.drawn(student, _first(data)))["params"]


def merge(
    student: Task, backbone: Variables, adapters: PyTree, blocks: PyTree, alive: Array
) -> Variables:
    """The model with the adapters of blocks below `alive` added, the others switched off."""
    merged = tasks.merged(student, {**tasks.as_base(backbone, COLLECTION), "params": adapters})
    params = jax.tree.map(
        lambda block, new, old: jnp.where(block < alive, new, old),
        blocks,
        merged["params"],
        backbone["params"],
    )
    return {**backbone, "params": params}


def block_numbers(task: Task, variables: Variables, data: Data, num_blocks: int) -> PyTree:
    """Tree like the parameters: each one's block as an int, 0 for the layers next to the output.

    Parameters of no layer are of block `num_blocks`, which is never trained.
    """
    layers = tasks.layer_names(task, variables, _first(data))[::-1]
    if num_blocks > len(layers):
        raise ValueError(
            f"num_slices must be at most the model's {len(layers)} layers, got {num_blocks}"
        )
    groups = np.array_split(layers, num_blocks)
    masks = [transforms.layer_mask(variables["params"], list(group)) for group in groups]
    return jax.tree.map(
        lambda *member: next((i for i, m in enumerate(member) if float(m) > 0), num_blocks), *masks
    )


def _first(data: Data) -> Data:
    return data_lib.take(data, jnp.zeros(1, jnp.int32))
