"""Unified concept editing: keys and values of cross-attention, edited by one linear solve.

Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024 (arXiv 2308.14761).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks, tasks, trees
from unlearnjax.analytic import precision
from unlearnjax.diffusion.denoiser import Process, null_like
from unlearnjax.types import Array, Data, PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning.descend import init_nothing
from unlearnjax.unlearning.diffusion import concepts, leaves

TOKENS = ("onwards", "last")
# Prompts that are encoded at a time.
_CHUNK = 64


class Sums(NamedTuple):
    """All that the solution depends on, float64.

    Attributes:
      gram: `[D, D]`, `erase_weight sum c c' + preserve_weight sum r r'`.
      shift: `[D, D]`, `erase_weight sum c (a - c)'`.
    """

    gram: Array
    shift: Array


def uce(
    process: Process,
    *,
    erase_weight: float = 1.0,
    preserve_weight: float = 0.1,
    ridge: float = 0.5,
    tokens: str = "onwards",
    where: trees.Where = leaves.KEYS_AND_VALUES,
    encoder: str = "text_encoder.hidden",
) -> Unlearner:
    """Edits the kernels W that read the text, so that a forgotten concept reads as its anchor does.

    Minimises over each W, W0 being the given one and all vectors outputs of the text encoder,
    `erase_weight sum |c W - a W0|^2 + preserve_weight sum |r W - r W0|^2 + ridge |W - W0|^2`: c and
    a are those of the forgotten prompts and their anchors, token by token from the concept's last
    one through the padding, aligned there and cut to equal length; r are those of all tokens of the
    retained prompts and of the empty one. Of examples with `captions` all of these are prompts; one
    counts once, however many examples have it. Biases stay: they cancel.

    As in the authors' first code ('replace') and the one of UnlearnCanvas, which erase the bare
    name and five phrases with it, and take a prompt's last word for the concept's, as in most of
    these it is. The present code takes this one token ('last' here), of preserved prompts, too, and
    weighs 1, 1 and 0.5. UnlearnCanvas has 0.05, 0.1 and 1 for styles, 0.01, 0.1 and 10 for objects.

    Args:
      process: the task's, which reads prompts.
      erase_weight, preserve_weight: >= 0.
      ridge: lambda, > 0.
      tokens: 'onwards' or 'last'.
      where: the kernels `[D, ...]`, see `trees.chosen`; of what it means, vectors are biases.
      encoder: what they read, `[B, L, D]`, a name of `tasks.capture`.

    Returns:
      An unlearner that needs prompts alone: of forget data `condition`, `anchor.condition` and the
      0/1 masks `concept` and `anchor.concept` of the concepts' own tokens, all `[N, L]`, or the
      likes of `captions`, see `data.captions`; of retain data `condition`. Cost: one pass of the
      text encoder over the different prompts; `D^3` for the solution, which all kernels share, and
      one product of each.

    Raises:
      ValueError: for a value out of range, and at the request for a missing column, prompts without
        the concept, one that is to be kept and forgotten, or kernels of another width.
    """
    concepts.validate_prompts(process)
    checks.finite(erase_weight=erase_weight, preserve_weight=preserve_weight, ridge=ridge)
    checks.at_least(0, erase_weight=erase_weight, preserve_weight=preserve_weight)
    checks.positive(ridge=ridge)
    checks.one_of(tokens=(tokens, TOKENS))
    checks.name(encoder=encoder)

    def update(rng, task, variables, memory, request: Request):
        del rng
        forget, kept = concepts.told(request, process)
        encode = functools.partial(encoded, task, variables, process, encoder)
        weights = {"erase_weight": erase_weight, "preserve_weight": preserve_weight}
        totals = sums(encode, forget, kept, process.null, tokens=tokens, **weights)
        params = edited(variables["params"], totals, ridge, where)
        return {**variables, "params": params}, memory

    return Unlearner(init_nothing, update, frozenset({"forget", "retain"}))


def encoded(
    task: Task, variables: Variables, process: Process, encoder: str, prompts: Array
) -> Array:
    """`[P, L, D]`: what cross-attention reads of prompts `[P, L]`.

    Raises:
      ValueError: for a layer that the model has not, or of another shape.
    """
    number = prompts.shape[0]
    batch = {"noised": jnp.zeros((number, *process.shape)), "time": jnp.zeros(number, jnp.int32)}
    captured = tasks.capture(task, (encoder,))
    outputs, _ = captured.apply(variables, {**batch, "condition": prompts}, None, False)
    hidden = outputs[f"hidden.{encoder}"]
    if hidden.ndim != 3 or hidden.shape[:2] != prompts.shape:
        wanted = f"[{number}, {prompts.shape[1]}, D]"
        raise ValueError(
            f"encoder must name a layer of shape {wanted} for {number} prompts, {encoder!r} is "
            f"{list(hidden.shape)}"
        )
    return hidden


def sums(
    encode: Callable[[Array], Array],
    forget: Data,
    kept: Array,
    null: tuple[int, ...],
    *,
    erase_weight: float,
    preserve_weight: float,
    tokens: str = "onwards",
) -> Sums:
    """What the solution of `uce` depends on.

    Args:
      encode: `[P, L]` prompts to `[P, L, D]`.
      forget: `condition`, `anchor.condition`, `concept` and `anchor.concept`, `[N, L]`.
      kept: `[M, L]`, prompts to be preserved beside the empty one.
      null: the empty prompt; its last token is what pads all.
      erase_weight, preserve_weight, tokens: see `uce`.
    """
    names = ("condition", "anchor.condition", "concept", "anchor.concept")
    told = [jnp.asarray(forget[name], jnp.int32) for name in names]
    kept = jnp.asarray(kept, jnp.int32)
    kept = jnp.concatenate([null_like(kept[:1], null), kept])
    length = kept.shape[1]
    places = jnp.arange(length)

    def erased(rows: Array) -> tuple[Array, Array, Array]:
        *prompts, own, other = jnp.split(rows, 4, axis=1)
        starts = [length - 1 - jnp.argmax(mask[:, ::-1], axis=1) for mask in (own, other)]
        count = 1 if tokens == "last" else length - jnp.maximum(*starts)
        at = [jnp.minimum(start[:, None] + places, length - 1) for start in starts]
        found = (
            jnp.take_along_axis(encode(prompt), place[..., None], axis=1)
            for prompt, place in zip(prompts, at, strict=True)
        )
        return *found, places < jnp.reshape(count, (-1, 1))

    def preserved(prompts: Array) -> tuple[Array, Array, Array]:
        # The last word is before the first end, or in the last place.
        ends = jnp.pad(prompts == null[-1], ((0, 0), (0, 1)), constant_values=True)
        last = jnp.argmax(ends, axis=1)[:, None] - 1
        there = places == last if tokens == "last" else jnp.ones(prompts.shape, bool)
        return *[encode(prompts)] * 2, there

    gone, stays = _over_distinct(erased, jnp.concatenate(told, 1)), _over_distinct(preserved, kept)
    with jax.enable_x64(True):
        gram = erase_weight * gone.gram + preserve_weight * stays.gram
        return Sums(gram, erase_weight * gone.shift)


@precision.float64
def edited(
    params: PyTree, totals: Sums, ridge: float, where: trees.Where = leaves.KEYS_AND_VALUES
) -> PyTree:
    """The parameters with the kernels `[D, ...]` that `where` means replaced by their solutions.

    `W0 + (ridge I + gram)^-1 shift W0`: with nothing to erase W0 itself, bit for bit. In the type
    that they have.

    Raises:
      ValueError: for kernels of another width, or none.
    """
    width = totals.gram.shape[0]
    factor = jax.scipy.linalg.cho_factor(totals.gram + ridge * jnp.eye(width), lower=True)
    step = jax.scipy.linalg.cho_solve(factor, totals.shift)
    leaves, treedef = jax.tree.flatten(params)
    flags = zip(trees.names(params), leaves, trees.chosen(params, where), strict=True)
    chosen = {name for name, leaf, meant in flags if meant and leaf.ndim > 1}
    if not chosen:
        raise ValueError(f"where must mean kernels, of {trees.names(params)} it means none")

    def solved(name: str, leaf: Array) -> Array:
        if name not in chosen:
            return leaf
        checks.floating(**{name: leaf})
        if leaf.shape[0] != width:
            raise ValueError(
                f"where must mean kernels of [{width}, ...], as the encoder's outputs are, got "
                f"{name} {list(leaf.shape)}"
            )
        flat = leaf.astype(jnp.float64).reshape(width, -1)
        return (flat + jax.lax.dot(step, flat)).reshape(leaf.shape).astype(leaf.dtype)

    return treedef.unflatten(map(solved, trees.names(params), leaves))


def _over_distinct(vectors: Callable, rows: Array) -> Sums:
    """The sums, without weights, over distinct rows.

    In chunks, of which those that repetitions leave empty cost nothing.

    Args:
      vectors: of rows `[P, K]` the vectors c and a `[P, L, D]`, and which count `[P, L]`.
      rows: `[N, K]`.
    """
    number, size = rows.shape[0], min(_CHUNK, rows.shape[0])
    rows, counts = jnp.unique(rows, axis=0, size=number, return_counts=True)
    rows = jnp.pad(rows, ((0, -number % size), (0, 0)), mode="edge")
    counts = jnp.pad(counts, (0, -number % size))
    chunks = rows.reshape(-1, size, rows.shape[1]), counts.reshape(-1, size) > 0

    def one(rows: Array, weight: Array) -> Sums:
        with jax.enable_x64(False):  # the network computes as it always does
            own, other, there = vectors(rows)
            there = (there & weight[:, None])[..., None]
            own, other = (jnp.where(there, x, 0).reshape(-1, x.shape[-1]) for x in (own, other))
        own, other = (x.astype(jnp.float64) for x in (own, other))
        return Sums(jax.lax.dot(own.T, own), jax.lax.dot(own.T, other - own))

    with jax.enable_x64(True):
        forms = jax.eval_shape(one, chunks[0][0], chunks[1][0])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), forms)

        def add(total, chunk):
            found = jax.lax.cond(chunk[1].any(), one, lambda *_: zeros, *chunk)
            return jax.tree.map(jnp.add, total, found), None

        return jax.lax.scan(add, zeros, chunks)[0]
