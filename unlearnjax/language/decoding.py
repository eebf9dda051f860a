"""Decoding: prompts of any length are continued side by side, in one compiled loop, with a cache.

Prompts are padded on the right. A row's tokens stand at its own positions, the first new one in the
place of its first padding, and see what is at or before these: so a row depends neither on its
neighbours nor on how far it was padded.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.types import Array

# Prefix of the columns that hold keys and values, of which some axis is that of the positions.
CACHE = "cache."

# {'inputs': [B, T], 'positions': [B, T], 'last': [B], 'cache.NAME': [B, ..., S, ...]} ->
#   {'logits': [B, V] after position `last` of the inputs, 'cache.NAME': ...}
Step = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def decode(
    step: Step,
    prompts: Array,
    lengths: Array,
    max_new_tokens: int,
    *,
    eos: int | Sequence[int] | None = None,
    temperature: float = 0.0,
    keys: Array | None = None,
) -> dict[str, Array]:
    """What a model says after each prompt.

    The prompts are read at once; then each turn of a loop reads one token of every row, until all
    have ended. A model that returns no `cache.*` reads everything again at every turn.

    Args:
      step: the model, see `Step`. First it is given the prompts, and makes a cache as long as they
        are; then single tokens with the longer cache, in which it writes.
      prompts: `[B, P]` tokens, padded on the right with any.
      lengths: `[B]`, of the prompts, 1 to P.
      max_new_tokens: N, at least 1.
      eos: the token that ends an answer, or several; `None`: only their number does.
      temperature: 0 takes the likeliest token; else tokens are drawn from
        `softmax(logits / temperature)`.
      keys: `[B]`, one for each row's draws, which depend on nothing else.

    Returns:
      `tokens` `[B, N]`, filled up with the (first) `eos`, and `length` `[B]`, how many come before
      it. Memory: the cache, of P + N - 1 positions.

    Raises:
      ValueError: for prompts or lengths of other shapes or types, a length outside of its bounds
        (where it is known), draws without keys.

    Examples:
      >>> def after(seen):  # counts on, up to 9
      ...     last = jnp.take_along_axis(seen["inputs"], seen["last"][:, None], 1)[:, 0]
      ...     return {"logits": jax.nn.one_hot(jnp.minimum(last + 1, 9), 10)}
      >>> found = decode(after, jnp.array([[4, 5], [7, 0]]), jnp.array([2, 1]), 3, eos=9)
      >>> found["tokens"].tolist(), found["length"].tolist()
      ([[6, 7, 8], [8, 9, 9]], [3, 1])
    """
    ends = _validated(prompts, lengths, max_new_tokens, eos, temperature, keys)
    rows, padded = prompts.shape
    longest = padded + max_new_tokens - 1
    lengths = lengths.astype(jnp.int32)
    filler = int(ends[0]) if ends.size else 0

    def choose(logits: Array, turn: Array | int) -> Array:
        if temperature == 0:
            return _likeliest(logits).astype(prompts.dtype)
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, turn)
        drawn = jax.vmap(jax.random.categorical)(own, logits / temperature)
        return drawn.astype(prompts.dtype)

    def kept(turn, token, state):
        """The state with one more token in every row that has not ended."""
        ended, tokens, length = state
        now = jnp.isin(token, ends)
        ended = ended | now
        token = jnp.where(ended, filler, token)
        tokens = tokens.at[:, turn].set(token)
        return token, (ended, tokens, length + ~ended)

    def from_the_first(inputs: Array) -> dict[str, Array]:
        positions = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
        return {"inputs": inputs, "positions": positions, "last": lengths - 1}

    outputs = step(from_the_first(prompts))
    # In whichever axis the cache of more tokens is longer.
    whole = jax.eval_shape(lambda x: step(from_the_first(_longer(x, longest))), prompts)
    cache = {
        name: jnp.pad(
            x, [(0, size - had) for size, had in zip(whole[name].shape, x.shape, strict=True)]
        )
        for name, x in outputs.items()
        if name.startswith(CACHE)
    }
    seen = cache or {"inputs": _longer(prompts, longest)}

    def read(turn, token, seen):
        """`(logits, seen)` after the token that was chosen at the turn before."""
        at = lengths + turn - 1
        if cache:
            given = {"inputs": token[:, None], "positions": at[:, None], "last": 0 * at, **seen}
            outputs = step(given)
            return outputs["logits"], {name: outputs[name] for name in seen}
        inputs = seen["inputs"].at[jnp.arange(rows), at].set(token)
        positions = jnp.broadcast_to(jnp.arange(longest), inputs.shape)
        outputs = step({"inputs": inputs, "positions": positions, "last": at})
        return outputs["logits"], {"inputs": inputs}

    def going(carry):
        turn, _, _, (ended, _, _) = carry
        return (turn < max_new_tokens) & ~ended.all()

    def body(carry):
        turn, token, seen, state = carry
        logits, seen = read(turn, token, seen)
        token, state = kept(turn, choose(logits, turn), state)
        return turn + 1, token, seen, state

    start = (
        jnp.zeros(rows, bool),
        jnp.full((rows, max_new_tokens), filler, prompts.dtype),
        jnp.zeros(rows, jnp.int32),
    )
    token, state = kept(0, choose(outputs["logits"], 0), start)
    _, _, _, (_, tokens, length) = jax.lax.while_loop(going, body, (1, token, seen, state))
    return {"tokens": tokens, "length": length}


def _longer(tokens: Array, size: int) -> Array:
    """Zeros behind."""
    return jnp.pad(tokens, ((0, 0), (0, size - tokens.shape[1])))


def _likeliest(logits: Array) -> Array:
    """`argmax(-1)`, in two reductions of a kind that CPUs do several times as fast."""
    most = logits.max(-1, keepdims=True)
    places = jnp.arange(logits.shape[-1])
    # NaN, as there, counts as the most.
    return jnp.where((logits == most) | jnp.isnan(logits), places, places[-1]).min(-1)


def _validated(prompts, lengths, max_new_tokens, eos, temperature, keys) -> np.ndarray:
    """The tokens that end an answer."""
    checks.whole(max_new_tokens=max_new_tokens)
    checks.at_least(1, max_new_tokens=max_new_tokens)
    checks.at_least(0, temperature=temperature)
    checks.finite(temperature=temperature)
    whole = all(jnp.issubdtype(x.dtype, jnp.integer) for x in (prompts, lengths))
    if not whole or prompts.ndim != 2 or lengths.shape != prompts.shape[:1]:
        raise ValueError(
            "prompts must be [B, P] integers, and their lengths [B], got "
            f"{prompts.dtype} {list(prompts.shape)} and {lengths.dtype} {list(lengths.shape)}"
        )
    if not checks.traced(lengths):
        outside = np.asarray(lengths)
        outside = outside[(outside < 1) | (outside > prompts.shape[1])]
        if outside.size:
            raise ValueError(
                f"lengths of prompts must be in 1..{prompts.shape[1]}, got {outside[:5].tolist()}"
            )
    if temperature > 0 and keys is None:
        raise ValueError(f"keys must be given where tokens are drawn (temperature {temperature})")
    ends: Any = [] if eos is None else np.atleast_1d(eos)
    for end in ends:
        checks.whole(eos=end)
    return np.asarray(ends, np.int32)
